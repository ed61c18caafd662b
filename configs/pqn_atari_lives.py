"""PQN on Atari by its authors' protocol: no sticky actions, a lost life ends an episode, only the game's own actions.

Returns are then those of one life; scores of whole games come from `tools/evaluate.py`, which always plays them. They
do not compare with those of `configs/pqn_atari.py`, whose games are harder.

Source: Gallici et al. 2024, arXiv:2407.04811, https://github.com/mttga/purejaxql.
"""

import ml_collections

from podrl.configs import pqn_atari


def get_config() -> ml_collections.ConfigDict:
    config = pqn_atari.get_config()
    config.name = "pqn_atari_lives"
    config.env.options.repeat_action_probability = 0.0
    config.env.options.full_action_space = False
    config.env.options.episodic_life = True
    config.env.options.noop_max = 30
    return config
