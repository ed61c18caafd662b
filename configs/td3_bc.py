"""TD3+BC on a data set of Hopper: `--config.data.path=FOLDER` of one that `tools/record.py` made.

Source: Fujimoto & Gu 2021, arXiv:2106.06860, appendix C.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_offline_control_config("td3_bc", agent="td3")
    config.network.normalize_observations = True
    config.agent.behaviour_alpha = 2.5
    config.agent.random_steps = 0
    return config
