"""R2D2 on bsuite's memory chain: a bit is shown at the start and must be recalled 20 steps later.

Sequences begin with the LSTM's state as the actor had it. `--config.network.core=none` runs it without memory, for a
return of 0; `--config.agent.burn_in=0 --config.agent.length=32` without burn-in.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("r2d2_memory", "MemoryChain-bsuite", total_env_steps=1_000_000)
    config.env.source = "gymnax"
    config.env.options.memory_length = 20
    config.topology.placement = "anakin"
    config.actors.num_envs = 64
    config.actors.unroll_length = 16
    config.replay.capacity = 50_000
    config.replay.batch = 64
    config.replay.ratio = 4.0
    config.replay.min_steps = 5_000
    config.network.hidden_sizes = (64,)
    config.network.core = "lstm"
    config.network.core_size = 64
    config.agent.name = "r2d2"
    config.agent.burn_in = 16
    config.agent.length = 32
    config.agent.discount = 0.99
    config.agent.target_period = 100
    config.agent.optimizer.learning_rate = 1e-3
    config.agent.optimizer.epsilon = 1e-5
    config.evaluate.greedy = True
    config.log.every_updates = 20
    return config
