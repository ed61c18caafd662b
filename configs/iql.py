"""IQL on a data set of Hopper: `--config.data.path=FOLDER` of one that `tools/record.py` made.

Source: Kostrikov et al. 2021, arXiv:2110.06169, section 5 and appendix B: expectile 0.7 and inverse temperature 3.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_offline_control_config("iql", agent="iql")
    config.network.normalize_observations = True
    config.agent.reward_scale = 0.3  # About a thousand over the best episode, as in the paper's code.
    return config
