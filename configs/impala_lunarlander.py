"""IMPALA on LunarLander: a few minutes on a laptop."""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("impala_lunarlander", "LunarLander-v3", total_env_steps=3_000_000)
    config.actors.num_envs = 32
    config.actors.unroll_length = 32
    config.actors.env_threads = 1
    config.network.hidden_sizes = (128, 128)
    config.agent.name = "impala"
    config.agent.optimizer.name = "adam"
    config.agent.optimizer.learning_rate = 1e-3
    config.agent.optimizer.max_grad_norm = 0.5
    config.agent.reward_scale = 0.05
    config.agent.discount = 0.995
    config.log.every_updates = 50
    return config
