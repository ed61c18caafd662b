"""TD3 on MuJoCo's Hopper."""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    return common.make_replayed_control_config("td3_hopper", "Hopper-v5", 1_000_000, agent="td3")
