"""PPO with an LSTM on bsuite's memory chain; see `configs/impala_memory.py`."""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("ppo_memory", "MemoryChain-bsuite", total_env_steps=1_000_000)
    config.env.source = "gymnax"
    config.env.options.memory_length = 20
    config.topology.placement = "anakin"
    config.actors.num_envs = 64
    config.actors.unroll_length = 64
    config.network.hidden_sizes = (64,)
    config.network.core = "lstm"
    config.network.core_size = 64
    config.agent.name = "ppo"
    config.agent.optimizer.learning_rate = 2e-3
    config.log.every_updates = 20
    return config
