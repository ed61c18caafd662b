"""IMPALA with an LSTM on MiniGrid's Memory: look at an object, walk down a hallway, turn to its like.

`--config.network.core=none` is the same without the memory, which can do no better than guess: half of the episodes.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("impala_memory", "MiniGrid-MemoryS7-v0", total_env_steps=4_000_000)
    config.env.observation_keys = ("direction", "image")
    config.actors.num_envs = 64
    config.actors.unroll_length = 20
    config.actors.env_threads = 1
    config.network.hidden_sizes = (128,)
    config.network.core = "lstm"
    config.network.core_size = 128
    config.agent = common.impala_agent()
    config.agent.optimizer = "adam"
    config.agent.learning_rate = 1e-3
    config.log.every_updates = 50
    return config
