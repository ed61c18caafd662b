"""PQN on MinAtar's Breakout, with environments inside the compiled program: minutes on a laptop.

Another game: `--config.env.id=SpaceInvaders-MinAtar`. Hyper-parameters are those of the authors' code, except for two.
The network gets the pixels as a vector, as in `configs/ppo_minatar.py`; theirs is `--config.network.encoder=minatar`,
at several times the cost. And in the end one action of a hundred is random, instead of one of twenty: in Breakout a
single one at the wrong moment loses the game.

Source: Gallici et al. 2024, arXiv:2407.04811, https://github.com/mttga/purejaxql.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("pqn_minatar", "Breakout-MinAtar", total_env_steps=10_000_000)
    config.env.source = "gymnax"
    config.topology.placement = "anakin"
    config.actors.num_envs = 128
    config.actors.unroll_length = 32
    config.network.hidden_sizes = (64, 64)
    config.agent.name = "pqn"
    config.agent.shuffle = "time"
    config.agent.minibatches = 32
    config.agent.epsilon_end = 0.01
    config.agent.optimizer.learning_rate = 5e-4
    config.log.every_updates = 20
    return config
