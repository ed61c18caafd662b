"""IMPALA on Atari: `python tools/tpu_launch.py --config configs/impala_atari.py`.

Another game: `--config.env.id=Pong-v5`. As in Cleanba, an optimizer step uses 640 transitions. The gradient's clipping
norm and the optimizer's epsilon are Cleanba's 40 and 0.01 divided by 640, because it sums over these terms where podrl
takes the mean.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("impala_atari", "Breakout-v5", total_env_steps=50_000_000)
    config.env.options = common.atari_options()
    config.actors.num_envs = 64
    config.actors.unroll_length = 20
    config.network.encoder = "resnet"
    config.network.frame_stack = 4
    config.agent.name = "impala"
    config.agent.max_reward = 1.0
    config.agent.minibatches = 2
    config.agent.optimizer.epsilon = 0.01 / 640
    config.agent.optimizer.max_grad_norm = 40 / 640
    config.log.every_updates = 5
    config.checkpoint.every_updates = 2000  # Updates of 20 steps each: above the games' time limit, 27,000 steps.
    return config
