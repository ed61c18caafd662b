"""IMPALA with an LSTM on bsuite's memory chain: a bit is shown at the start and must be recalled 20 steps later.

`--config.network.core=none` runs it without memory: the agent can only guess, for a return of 0. Longer chains:
`--config.env.options.memory_length=40`, with `actors.unroll_length` at least as long.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("impala_memory", "MemoryChain-bsuite", total_env_steps=1_000_000)
    config.env.source = "gymnax"
    config.env.options.memory_length = 20
    config.topology.placement = "anakin"
    config.actors.num_envs = 64
    config.actors.unroll_length = 32
    config.network.hidden_sizes = (64,)
    config.network.core = "lstm"
    config.network.core_size = 64
    config.agent.name = "impala"
    config.agent.optimizer.name = "adam"
    config.agent.optimizer.learning_rate = 2e-3
    config.agent.entropy_cost = 0.003
    config.log.every_updates = 50
    return config
