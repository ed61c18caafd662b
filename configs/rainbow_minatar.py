"""Rainbow on MinAtar's Breakout, with environments inside the compiled program.

Another game: `--config.env.id=SpaceInvaders-MinAtar`. Environments, ring and batch are those of
`configs/apex_minatar.py`. Rewards are never negative, so the atoms begin at zero.

Source: Hessel et al. 2018, arXiv:1710.02298, for the agent; Young & Tian 2019, arXiv:1903.03176, for the size of the
ring.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("rainbow_minatar", "Breakout-MinAtar", total_env_steps=5_000_000)
    config.env.source = "gymnax"
    config.topology.placement = "anakin"
    config.actors.num_envs = 128
    config.actors.unroll_length = 8
    config.replay.capacity = 100_000
    config.replay.batch = 512
    config.replay.ratio = 4.0
    config.replay.min_steps = 10_000
    config.replay.priority_exponent = 0.5
    config.replay.importance_exponent = 0.4
    config.network.hidden_sizes = (128, 128)
    config.agent.name = "rainbow"
    config.agent.min_value = 0.0
    config.agent.max_value = 20.0
    config.agent.max_reward = 0.0
    config.agent.target_period = 500
    config.agent.optimizer.learning_rate = 2.5e-4
    config.evaluate.greedy = True
    config.log.every_updates = 20
    return config
