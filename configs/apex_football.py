"""Ape-X DQN on Google Research Football: an academy scenario, from 12 numbers computed from the minimap.

The agent starts with the ball before an empty goal, as in `configs/ppo_football.py`, which names other scenarios and
observations. Of the benchmark's three baselines (IMPALA, PPO, Ape-X) this is the third.

Source: Horgan et al. 2018, arXiv:1803.00933, for priorities, epsilons and targets over three steps; Kurach et al. 2020,
arXiv:1907.11180, for the discount. The ring and the learning rate are those of `configs/apex_minatar.py`.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("apex_football", "gfootball/academy_empty_goal_close-v1", total_env_steps=500_000)
    config.env.source = "football"
    config.env.options = common.football_options()
    config.log.info_keys = ("score",)
    config.actors.num_envs = 32
    config.actors.unroll_length = 16
    config.replay.capacity = 100_000
    config.replay.batch = 512
    config.replay.ratio = 4.0
    config.replay.min_steps = 10_000
    config.network.hidden_sizes = (128, 128)
    config.network.frame_stack = 4
    common.use_apex(config)
    config.agent.discount = 0.993
    config.agent.target_period = 500
    config.agent.optimizer.learning_rate = 5e-4
    config.agent.optimizer.epsilon = 1e-5
    config.evaluate.greedy = True
    config.log.every_updates = 20
    return config
