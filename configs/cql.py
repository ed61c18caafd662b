"""CQL on a data set of Hopper: `--config.data.path=FOLDER` of one that `tools/record.py` made.

The weight of the term is fixed. It stands beside half the squared error; the authors' code has 5 beside the whole
squared error.

Source: Kumar et al. 2020, arXiv:2006.04779, appendix F.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_offline_control_config("cql", agent="sac")
    config.network.hidden_sizes = (256, 256, 256)
    config.network.squash_actions = True
    config.network.action_scale = "observed"
    config.agent.optimizer.learning_rate = 1e-4
    config.agent.temperature_optimizer = {"learning_rate": 1e-4}
    config.agent.conservative_weight = 2.5
    config.agent.conservative_actions = 10
    config.agent.entropy_in_targets = False
    config.agent.random_steps = 0
    return config
