"""PPO on Google Research Football: an academy scenario, from 12 numbers computed from the minimap.

The agent starts with the ball before an empty goal. From the minimap itself, as published:
`--config.env.options.observation=minimap --config.network.encoder=resnet`. Another scenario, with rewards for
checkpoints on the way to the goal: `--config.env.id=gfootball/academy_empty_goal-v1
--config.env.options.checkpoints=True`.

The discount is that of Kurach et al. 2020, arXiv:1907.11180; steps are larger than theirs, for a run of minutes. One
run reached 0.97 goals a match after 86,000 steps.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("ppo_football", "gfootball/academy_empty_goal_close-v1", total_env_steps=150_000)
    config.env.source = "football"
    config.env.options = common.football_options()
    config.actors.num_envs = 16
    config.actors.unroll_length = 128
    config.network.hidden_sizes = (128, 128)
    config.network.frame_stack = 4
    config.agent.name = "ppo"
    config.agent.shuffle = "time"
    config.agent.optimizer.learning_rate = 5e-4
    config.agent.discount = 0.993
    config.agent.entropy_cost = 0.003
    return config
