"""TD3 on MuJoCo's HalfCheetah."""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    return common.make_replayed_control_config("td3_halfcheetah", "HalfCheetah-v5", 200_000, agent="td3")
