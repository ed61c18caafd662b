"""IMPALA on Meta-World: a robot arm presses a button, with continuous actions."""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("impala_metaworld", "MetaWorld/ButtonPress-v3", total_env_steps=5_000_000)
    config.log.info_keys = ("max:success",)
    config.actors.num_envs = 32
    config.actors.unroll_length = 20
    config.network.hidden_sizes = (128, 128)
    config.network.normalize_observations = True
    config.network.normalize_rewards = True
    config.agent.name = "impala"
    config.agent.optimizer.name = "adam"
    config.agent.optimizer.learning_rate = 3e-4
    config.agent.entropy_cost = 0.001
    return config
