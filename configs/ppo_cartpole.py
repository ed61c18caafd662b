"""PPO on CartPole, with environments inside the compiled program: seconds on a laptop.

Hyper-parameters are PureJaxRL's; its 4 environments of 128 steps are 8 of 64 here.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("ppo_cartpole", "CartPole-v1", total_env_steps=500_000)
    config.env.source = "gymnax"
    config.topology.placement = "anakin"
    config.actors.num_envs = 8
    config.actors.unroll_length = 64
    config.network.hidden_sizes = (64, 64)
    config.network.activation = "tanh"
    config.network.separate_value = True
    config.agent.name = "ppo"
    config.agent.shuffle = "time"
    config.agent.value_clip = 0.2
    return config
