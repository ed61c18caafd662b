"""IMPALA learns Pong from pixels on a 2-core machine, in under an hour.

The game is Atari's older, easier form: no sticky actions, the six actions that Pong uses. The network is DQN's, because
a small processor spends its time there.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("impala_pong", "Pong-v5", total_env_steps=4_000_000)
    config.env.options = common.atari_options()
    config.env.options.repeat_action_probability = 0.0
    config.env.options.full_action_space = False
    config.env.options.noop_max = 30
    config.actors.num_envs = 32
    config.actors.unroll_length = 40
    config.network.encoder = "nature"
    config.network.frame_stack = 4
    config.agent = common.impala_agent()
    config.agent.max_reward = 1.0
    config.agent.optimizer = "adam"
    config.agent.max_grad_norm = 0.5
    config.agent.learning_rate = 4e-4
    config.agent.entropy_cost = 0.003
    config.agent.lambda_ = 0.95
    config.agent.minibatches = 16
    return config
