"""IMPACT on Google Research Football, with four batches of two uses each.

Environments, network and optimizer are those of `configs/impala_football.py`: the agent starts with the ball before an
empty goal, and sees 12 numbers computed from the minimap.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("impact_football", "gfootball/academy_empty_goal_close-v1", total_env_steps=500_000)
    config.env.source = "football"
    config.env.options = common.football_options()
    config.log.info_keys = ("score",)
    config.actors.num_envs = 16
    config.actors.unroll_length = 32
    config.replay.batches = 4
    config.replay.uses = 2
    config.network.hidden_sizes = (128, 128)
    config.network.frame_stack = 4
    config.agent.name = "impact"
    config.agent.discount = 0.993
    config.agent.entropy_cost = 0.003
    return config
