"""MISA on a data set of Hopper: `--config.data.path=FOLDER` of one that `tools/record.py` made.

The authors' networks have ELUs in place of ReLUs. `--config.agent.action_samples=10` is for CPUs.

Source: Ma et al. 2022, arXiv:2210.07484; the numbers are those of their code, among them 1.2 million learner steps.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_offline_control_config("misa", agent="misa")
    config.total_updates = 12_000
    config.network.squash_actions = True
    config.network.action_scale = "observed"
    return config
