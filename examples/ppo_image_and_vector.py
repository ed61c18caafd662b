"""PPO on an image and a vector, the environment beside this file: learns in minutes on two cores."""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    config = common.make_config("ppo_image_and_vector", "image_and_vector:Marked", total_env_steps=40_000)
    config.env.source = "gymnasium"
    config.actors.num_envs = 32
    config.actors.unroll_length = 16
    config.network.encoder = "nature"
    config.network.hidden_sizes = (32,)
    config.agent.name = "ppo"
    config.agent.minibatches = 4
    config.agent.optimizer.learning_rate = 1e-3
    return config
