"""IMPALA on MinAtar's Breakout, with environments inside the compiled program: minutes on a laptop.

Another game: `--config.env.id=SpaceInvaders-MinAtar`. The entropy cost is higher than in other configs: with 0.01 the
policy converges to play that loses the ball after the sixth or seventh brick, see `docs/results.md`.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("impala_minatar", "Breakout-MinAtar", total_env_steps=10_000_000)
    config.env.source = "gymnax"
    config.topology.placement = "anakin"
    config.actors.num_envs = 64
    config.actors.unroll_length = 32
    config.network.hidden_sizes = (64, 64)
    config.network.separate_value = True
    config.agent.name = "impala"
    config.agent.optimizer.name = "adam"
    config.agent.optimizer.learning_rate = 3e-3
    config.agent.entropy_cost = 0.05
    config.agent.minibatches = 8
    config.agent.optimizer.max_grad_norm = 0.5
    config.log.every_updates = 50
    return config
