"""PPO on MuJoCo's HalfCheetah: minutes on a laptop."""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    return common.make_control_config("ppo_halfcheetah", "HalfCheetah-v5", total_env_steps=2_000_000)
