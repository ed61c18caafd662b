"""V-MPO on LunarLander: minutes on a laptop.

Environments and network are those of `configs/impala_lunarlander.py`.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("vmpo_lunarlander", "LunarLander-v3", total_env_steps=3_000_000)
    config.actors.num_envs = 32
    config.actors.unroll_length = 32
    config.actors.env_threads = 1
    config.network.hidden_sizes = (128, 128)
    config.agent.name = "vmpo"
    config.agent.optimizer.learning_rate = 1e-3
    config.agent.optimizer.learning_rate_decay = True
    config.agent.dual_optimizer = {"learning_rate": 1e-2}
    config.agent.discount = 0.995
    config.agent.lambda_ = 0.95
    config.agent.target_period = 4
    config.agent.kl_epsilon = 0.02
    config.agent.popart = {"rate": 1e-2}
    config.log.every_updates = 50
    return config
