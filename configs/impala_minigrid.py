"""IMPALA on MiniGrid: pick up a key, open a door, reach the goal, from a view of 7x7 cells."""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("impala_minigrid", "MiniGrid-DoorKey-5x5-v0", total_env_steps=2_000_000)
    # The largest number in a view is 10, although its space reaches 255; the mission is the same in every episode.
    config.env.observation_keys = ("direction", "image")
    config.env.uint8 = "numbers"
    config.actors.num_envs = 32
    config.actors.unroll_length = 20
    config.actors.env_threads = 1
    config.network.hidden_sizes = (128, 128)
    config.agent.name = "impala"
    config.agent.optimizer.name = "adam"
    config.agent.optimizer.learning_rate = 1e-3
    config.log.every_updates = 50
    return config
