"""SAC on MuJoCo's HalfCheetah."""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    return common.make_replayed_control_config("sac_halfcheetah", "HalfCheetah-v5", 200_000, agent="sac")
