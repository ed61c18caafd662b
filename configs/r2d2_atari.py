"""R2D2 on Atari: `python tools/tpu_launch.py --config configs/r2d2_atari.py`.

Another game: `--config.env.id=Pong-v5`. Hyper-parameters and network are SEED RL's for Atari, most of them the agent's
defaults. Games are played as in `configs/impala_atari.py`, by Cleanba's protocol. The ring of four million steps takes
27 GiB over all learner devices: on few devices lower `--config.replay.capacity`.

Source: Espeholt et al. 2020, arXiv:1910.06591, and its code; Kapturowski et al. 2019, ICLR.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("r2d2_atari", "Breakout-v5", total_env_steps=50_000_000)
    config.env.options = common.atari_options()
    config.actors.num_envs = 512
    config.actors.unroll_length = 40
    config.replay.capacity = 4_000_000
    config.replay.batch = 64
    config.replay.ratio = 0.75
    config.replay.min_steps = 200_000
    config.replay.groups = 32  # Of 16 environments; fits two pools on each of 4 actor and 4 learner devices, or fewer.
    config.network.encoder = "nature"
    config.network.frame_stack = 4
    config.network.core = "lstm"
    config.network.core_size = 512
    config.network.last_action = True
    config.network.last_reward = True
    config.agent.name = "r2d2"
    config.agent.optimizer.max_grad_norm = 80.0
    config.evaluate.greedy = True
    config.log.every_updates = 2
    config.checkpoint.every_updates = 1000  # Updates of 40 steps each: above the games' time limit, 27,000 steps.
    return config
