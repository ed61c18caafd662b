"""IMPACT on MuJoCo's double pendulum, with the paper's ring for continuous control: 16 batches of 20 uses each."""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config(
        "impact_inverted_double_pendulum", "InvertedDoublePendulum-v5", total_env_steps=1_000_000
    )
    config.actors.num_envs = 16
    config.actors.unroll_length = 64
    config.actors.env_threads = 1
    config.replay.batches = 16
    config.replay.uses = 20
    config.network.hidden_sizes = (64, 64)
    config.network.activation = "tanh"
    config.network.separate_value = True
    config.network.normalize_observations = True
    config.network.normalize_rewards = True
    config.agent.name = "impact"
    config.agent.optimizer.learning_rate = 3e-4
    config.agent.optimizer.max_grad_norm = 0.5
    config.agent.lambda_ = 0.95
    config.agent.entropy_cost = 0.0
    config.agent.target_period = 320
    config.log.every_updates = 10
    return config
