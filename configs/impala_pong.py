"""IMPALA on Pong from pixels, for a 2-core machine: from -20.4 to -10 in 19 minutes, see `docs/results.md`.

To fit, it uses frames of 52x52 pixels instead of 84x84 (a quarter of the work), DQN's network, and many small optimizer
steps over many environments. The game is Atari's older, easier form: no sticky actions, and only the six actions that
Pong uses.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("impala_pong", "Pong-v5", total_env_steps=10_000_000)
    config.env.options = common.atari_options()
    config.env.options.repeat_action_probability = 0.0
    config.env.options.full_action_space = False
    config.env.options.noop_max = 30
    config.env.options.img_height = 52
    config.env.options.img_width = 52
    config.actors.num_envs = 64
    config.actors.unroll_length = 5
    config.network.encoder = "nature"
    config.network.frame_stack = 4
    config.agent.name = "impala"
    config.agent.max_reward = 1.0
    config.agent.optimizer.learning_rate = 7e-4
    config.agent.optimizer.epsilon = 0.01 / 640
    config.agent.optimizer.max_grad_norm = 0.25
    config.agent.entropy_cost = 0.003
    config.agent.minibatches = 4
    config.log.every_updates = 100
    config.checkpoint.every_updates = 6000  # Updates of 5 steps each: above the game's time limit, 27,000 steps.
    return config
