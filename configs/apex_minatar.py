"""Ape-X DQN on MinAtar's Breakout, with environments inside the compiled program.

It is R2D2 without a core: single transitions, each drawn by its own priority. Another game:
`--config.env.id=SpaceInvaders-MinAtar`. The network gets the pixels as a vector, as in `configs/ppo_minatar.py`.

Source: Horgan et al. 2018, arXiv:1803.00933, for priorities, epsilons and targets over three steps; Young & Tian 2019,
arXiv:1903.03176, for the size of the ring.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("apex_minatar", "Breakout-MinAtar", total_env_steps=5_000_000)
    config.env.source = "gymnax"
    config.topology.placement = "anakin"
    config.actors.num_envs = 128
    config.actors.unroll_length = 8
    config.replay.capacity = 100_000
    config.replay.batch = 512
    config.replay.ratio = 4.0
    config.replay.min_steps = 10_000
    config.network.hidden_sizes = (128, 128)
    common.use_apex(config)
    config.agent.discount = 0.99
    config.agent.target_period = 500
    config.agent.optimizer.learning_rate = 5e-4
    config.agent.optimizer.epsilon = 1e-5
    config.evaluate.greedy = True
    config.log.every_updates = 20
    return config
