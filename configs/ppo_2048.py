"""PPO on the board game 2048 (Jumanji's, in EnvPool), whose moves are masked: those that change nothing are forbidden.

`--config.env.action_mask=none` gives the mask as an observation instead, and lets the agent try what does nothing.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("ppo_2048", "Game2048-v1", total_env_steps=2_000_000)
    config.actors.num_envs = 128
    config.actors.unroll_length = 64
    config.network.hidden_sizes = (256, 256)
    config.network.normalize_rewards = True
    config.agent.name = "ppo"
    config.agent.minibatches = 8
    config.agent.optimizer.learning_rate = 1e-3
    return config
