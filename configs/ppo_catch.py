"""PPO on Catch, a ball that falls ten rows: learns within a minute on a laptop."""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("ppo_catch", "Catch-v0", total_env_steps=150_000)
    config.actors.num_envs = 16
    config.actors.unroll_length = 64
    config.actors.env_threads = 1
    config.network.hidden_sizes = (64, 64)
    config.agent.name = "ppo"
    config.agent.shuffle = "time"
    config.agent.optimizer.learning_rate = 2e-3
    config.agent.entropy_cost = 0.003
    return config
