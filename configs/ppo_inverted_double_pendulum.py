"""PPO on MuJoCo's double pendulum, which a cart balances: minutes on a laptop."""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    return common.make_control_config(
        "ppo_inverted_double_pendulum", "InvertedDoublePendulum-v5", total_env_steps=1_000_000
    )
