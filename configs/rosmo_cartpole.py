"""ROSMO on recorded episodes of CartPole: as `configs/rosmo_catch.py`, with a longer run."""

import ml_collections

from configs import rosmo_catch


def get_config() -> ml_collections.ConfigDict:
    config = rosmo_catch.get_config()
    config.name = "rosmo_cartpole"
    config.env.id = "CartPole-v1"
    config.total_updates = 1_000
    config.agent.unroll_steps = 5
    config.agent.n_steps = 5
    return config
