"""V-MPO on LunarLander: minutes on a laptop.

The network is that of `configs/impala_lunarlander.py`. Batches are half as large, so that there are more updates.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("vmpo_lunarlander", "LunarLander-v3", total_env_steps=3_000_000)
    config.actors.num_envs = 16
    config.actors.unroll_length = 32
    config.actors.env_threads = 1
    config.network.hidden_sizes = (128, 128)
    config.agent.name = "vmpo"
    config.agent.optimizer.learning_rate = 1e-3
    config.agent.optimizer.learning_rate_decay = True
    config.agent.dual_optimizer = {"learning_rate": 3e-2}
    config.agent.discount = 0.995
    config.agent.lambda_ = 0.95
    config.agent.target_period = 8
    config.agent.temperature = 0.1
    config.agent.temperature_epsilon = 0.3
    config.agent.kl_cost = 1.0
    config.agent.kl_epsilon = 0.01
    config.agent.popart = {"rate": 1e-2}
    config.log.every_updates = 50
    return config
