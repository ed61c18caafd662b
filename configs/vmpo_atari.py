"""V-MPO on Atari: `python tools/tpu_launch.py --config configs/vmpo_atari.py`.

The bounds, the learning rate and PopArt are the paper's; environments and network those of `configs/impala_atari.py`.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("vmpo_atari", "Breakout-v5", total_env_steps=50_000_000)
    config.env.options = common.atari_options()
    config.actors.num_envs = 64
    config.actors.unroll_length = 20
    config.network.encoder = "resnet"
    config.network.frame_stack = 4
    config.agent.name = "vmpo"
    config.agent.max_reward = 1.0
    config.agent.temperature_epsilon = 0.02
    config.log.every_updates = 5
    config.checkpoint.every_updates = 2000  # Updates of 20 steps each: above the games' time limit, 27,000 steps.
    return config
