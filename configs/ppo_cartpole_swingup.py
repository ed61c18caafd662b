"""PPO on DM Control's cart-pole, which has to be swung up first: minutes on a laptop."""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    return common.make_control_config("ppo_cartpole_swingup", "CartpoleSwingup-v1", total_env_steps=1_000_000)
