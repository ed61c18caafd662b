"""V-MPO on DM Control's cart-pole, which has to be swung up first: minutes on a laptop."""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("vmpo_cartpole_swingup", "CartpoleSwingup-v1", total_env_steps=1_500_000)
    config.actors.num_envs = 16
    config.actors.unroll_length = 128
    config.actors.env_threads = 1
    config.network.hidden_sizes = (64, 64)
    config.network.activation = "tanh"
    config.network.separate_value = True
    config.network.normalize_observations = True
    config.agent.name = "vmpo"
    config.agent.shuffle = "time"
    config.agent.minibatches = 16
    config.agent.epochs = 4
    config.agent.target_period = 1
    config.agent.optimizer.learning_rate = 5e-4
    config.agent.optimizer.learning_rate_decay = True
    config.agent.dual_optimizer = {"learning_rate": 3e-3}
    config.agent.lambda_ = 0.95
    config.agent.temperature = 0.1
    config.agent.kl_cost = 1.0
    config.agent.mean_epsilon = 0.01
    config.agent.covariance_epsilon = 5e-6
    config.agent.popart = {"rate": 0.05}
    config.log.every_updates = 10
    return config
