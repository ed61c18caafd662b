"""SAC on DM Control's walker, whose reward is learned from the preferences of five simulated teachers.

A thousand questions about pairs of segments of 50 steps, 30 % of them answered wrongly by the mean of the teachers. The
first 9,000 env steps after the uniform ones explore by the entropy of states, as in PEBBLE.

Source: Lee et al. 2021, PEBBLE, arXiv:2106.05091, table 4 and appendix B (rounds, segments, unsupervised steps). The
mixture of teachers is this config's own.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_replayed_control_config("preferences_walker", "WalkerStand-v1", 200_000, agent="sac")
    config.replay.capacity = 200_000
    config.replay.min_steps = 1_000
    config.agent.random_steps = 1_000
    config.rewards.source = "preferences"
    config.rewards.first_update = 156  # After some 10,000 env steps.
    config.rewards.every_updates = 78  # Every 5,000.
    config.rewards.queries = 50
    config.rewards.max_queries = 1_000
    config.rewards.mistakes = (0.1, 0.2, 0.3, 0.4, 0.5)
    config.evaluate.every_updates = 156
    config.evaluate.episodes = 4
    return config
