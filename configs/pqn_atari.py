"""PQN on Atari: `python tools/tpu_launch.py --config configs/pqn_atari.py`.

Another game: `--config.env.id=Pong-v5`. Games are played as in `configs/ppo_atari.py`, by Cleanba's protocol: with
sticky actions, all 18 actions and all lives. `configs/pqn_atari_lives.py` has the authors' own. Hyper-parameters are
theirs.

Source: Gallici et al. 2024, arXiv:2407.04811, https://github.com/mttga/purejaxql.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("pqn_atari", "Breakout-v5", total_env_steps=50_000_000)
    config.env.options = common.atari_options()
    config.actors.num_envs = 128
    config.actors.unroll_length = 32
    config.actors.lag = 0
    config.network.encoder = "nature"
    config.network.frame_stack = 4
    config.agent.name = "pqn"
    config.agent.shuffle = "time"
    config.agent.minibatches = 32
    config.agent.max_reward = 1.0
    config.agent.epsilon_end = 0.001
    config.agent.optimizer.learning_rate_decay = False
    config.log.every_updates = 5
    config.checkpoint.every_updates = 1000  # Updates of 32 steps each: above the games' time limit, 27,000 steps.
    return config
