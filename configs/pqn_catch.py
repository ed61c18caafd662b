"""PQN on Catch, a ball that falls ten rows: learns within a minute on a laptop."""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("pqn_catch", "Catch-v0", total_env_steps=150_000)
    config.actors.num_envs = 16
    config.actors.unroll_length = 32
    config.actors.env_threads = 1
    config.actors.lag = 0
    config.network.hidden_sizes = (64, 64)
    config.agent.name = "pqn"
    config.agent.shuffle = "time"
    config.agent.optimizer.learning_rate = 1e-3
    config.agent.epsilon_decay = 0.3
    return config
