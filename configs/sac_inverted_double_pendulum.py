"""SAC on MuJoCo's double pendulum, which a cart balances."""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_replayed_control_config(
        "sac_inverted_double_pendulum", "InvertedDoublePendulum-v5", 100_000, agent="sac"
    )
    config.replay.min_steps = 5_000
    config.agent.random_steps = 5_000
    return config
