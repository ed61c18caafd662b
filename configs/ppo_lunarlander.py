"""PPO on LunarLander: a few minutes on a laptop."""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("ppo_lunarlander", "LunarLander-v3", total_env_steps=2_000_000)
    config.actors.num_envs = 16
    config.actors.unroll_length = 128
    config.actors.env_threads = 1
    config.network.hidden_sizes = (64, 64)
    config.agent.name = "ppo"
    config.agent.shuffle = "time"
    config.agent.optimizer.learning_rate = 1e-3
    config.agent.discount = 0.995
    config.agent.lambda_ = 0.98
    config.agent.reward_scale = 0.05
    return config
