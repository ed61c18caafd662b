"""IMPALA on Catch, a ball that falls ten rows: learns in about twenty seconds on a laptop."""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("impala_catch", "Catch-v0", total_env_steps=500_000)
    config.actors.num_envs = 32
    config.actors.unroll_length = 20
    config.actors.env_threads = 1
    config.network.hidden_sizes = (64, 64)
    config.agent.name = "impala"
    config.agent.optimizer.name = "adam"
    config.agent.optimizer.learning_rate = 2e-3
    return config
