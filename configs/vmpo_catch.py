"""V-MPO on Catch, a ball that falls ten rows: learns within a minute on a laptop."""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("vmpo_catch", "Catch-v0", total_env_steps=500_000)
    config.actors.num_envs = 32
    config.actors.unroll_length = 20
    config.actors.env_threads = 1
    config.network.hidden_sizes = (64, 64)
    config.agent.name = "vmpo"
    config.agent.optimizer.learning_rate = 2e-3
    config.agent.dual_optimizer = {"learning_rate": 1e-2}
    config.agent.target_period = 5
    config.agent.kl_epsilon = 0.05
    config.agent.popart = {"rate": 1e-2}
    return config
