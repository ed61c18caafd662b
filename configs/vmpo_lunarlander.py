"""V-MPO on LunarLander: minutes on a laptop.

Batches, passes over them and returns are those of `configs/ppo_lunarlander.py`, with smaller minibatches.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("vmpo_lunarlander", "LunarLander-v3", total_env_steps=1_000_000)
    config.actors.num_envs = 16
    config.actors.unroll_length = 128
    config.actors.env_threads = 1
    config.network.hidden_sizes = (64, 64)
    config.agent.name = "vmpo"
    config.agent.shuffle = "time"
    config.agent.minibatches = 8
    config.agent.epochs = 4
    config.agent.target_period = 1
    config.agent.optimizer.learning_rate = 1e-3
    config.agent.optimizer.learning_rate_decay = True
    config.agent.dual_optimizer = {"learning_rate": 1e-2}
    config.agent.discount = 0.995
    config.agent.lambda_ = 0.98
    config.agent.temperature = 0.1
    config.agent.kl_cost = 1.0
    config.agent.kl_epsilon = 0.01
    config.agent.popart = {"rate": 0.05}
    config.log.every_updates = 10
    return config
