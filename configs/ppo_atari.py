"""PPO on Atari: `python tools/tpu_launch.py --config configs/ppo_atari.py`.

Another game: `--config.env.id=Pong-v5`. Hyper-parameters are Cleanba's; its 64 environments for each of two threads are
128 here. The acting policy is one update behind; `--config.actors.lag=0` makes it the newest, and actors and learners
then wait for each other. On CPU add `--config.network.encoder=nature`: the residual network takes several times as long
there.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("ppo_atari", "Breakout-v5", total_env_steps=50_000_000)
    config.env.options = common.atari_options()
    config.actors.num_envs = 128
    config.actors.unroll_length = 128
    config.network.encoder = "resnet"
    config.network.frame_stack = 4
    config.agent.name = "ppo"
    config.agent.shuffle = "time"
    config.agent.max_reward = 1.0
    config.agent.clip = 0.1
    config.log.every_updates = 1
    config.checkpoint.every_updates = 250  # Updates of 128 steps each: above the games' time limit, 27,000 steps.
    return config
