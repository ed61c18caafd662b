"""IMPALA on Google Research Football: an academy scenario, from 12 numbers computed from the minimap.

The agent starts with the ball before an empty goal. From the minimap itself, as published:
`--config.env.options.observation=minimap --config.network.encoder=resnet`. Another scenario, with rewards for
checkpoints on the way to the goal: `--config.env.id=gfootball/academy_empty_goal-v1
--config.env.options.checkpoints=True`.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("impala_football", "gfootball/academy_empty_goal_close-v1", total_env_steps=500_000)
    config.env.source = "football"
    config.env.options = common.football_options()
    config.log.info_keys = ("score",)
    config.actors.num_envs = 16
    config.actors.unroll_length = 32
    config.network.hidden_sizes = (128, 128)
    config.network.frame_stack = 4
    config.agent.name = "impala"
    config.agent.optimizer.name = "adam"
    config.agent.optimizer.learning_rate = 5e-4
    config.agent.discount = 0.993
    config.agent.entropy_cost = 0.003
    return config
