"""A2C with a transformer on Catch: an algorithm and a network of one's own, which are beside this file."""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    config = common.make_config("a2c_catch", "Catch-v0", total_env_steps=300_000)
    config.actors.num_envs = 32
    config.actors.unroll_length = 10  # An episode has 9 steps; with 20 there are half as many updates.
    config.actors.env_threads = 1
    config.actors.lag = 0
    config.network.encoder = "transformer:Transformer(layers=1)"
    config.agent.name = "a2c"
    config.agent.optimizer.name = "adam"
    config.agent.optimizer.learning_rate = 2e-3
    return config
