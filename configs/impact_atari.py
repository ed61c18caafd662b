"""IMPACT on Atari, with four batches of two uses each: `python tools/tpu_launch.py --config configs/impact_atari.py`.

Environments, network and minibatches are those of `configs/impala_atari.py`. The ring of 64 environments takes 43 MiB.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("impact_atari", "Breakout-v5", total_env_steps=50_000_000)
    config.env.options = common.atari_options()
    config.actors.num_envs = 64
    config.actors.unroll_length = 20
    config.replay.batches = 4
    config.replay.uses = 2
    config.network.encoder = "resnet"
    config.network.frame_stack = 4
    config.agent.name = "impact"
    config.agent.max_reward = 1.0
    config.agent.minibatches = 2
    config.agent.optimizer.max_grad_norm = 40 / 640
    config.log.every_updates = 5
    config.checkpoint.every_updates = 2000  # Updates of 20 steps each: above the games' time limit, 27,000 steps.
    return config
