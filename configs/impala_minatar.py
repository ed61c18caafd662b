"""IMPALA on MinAtar's Breakout, with environments inside the compiled program.

Another game: `--config.env.id=SpaceInvaders-MinAtar`.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("impala_minatar", "Breakout-MinAtar", total_env_steps=10_000_000)
    config.env.source = "gymnax"
    config.topology.placement = "anakin"
    config.actors.num_envs = 64
    config.actors.unroll_length = 32
    config.network.hidden_sizes = (64, 64)
    config.agent = common.impala_agent()
    config.agent.optimizer = "adam"
    config.agent.learning_rate = 1e-3
    config.agent.max_grad_norm = 0.5
    config.log.every_updates = 50
    return config
