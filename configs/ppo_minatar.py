"""PPO on MinAtar's Breakout, with environments inside the compiled program: minutes on a laptop.

Another game: `--config.env.id=SpaceInvaders-MinAtar`. Hyper-parameters are PureJaxRL's, with a network that gets the
pixels as a vector; `--config.network.encoder=minatar` is the game's own convolution, at several times the cost.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("ppo_minatar", "Breakout-MinAtar", total_env_steps=10_000_000)
    config.env.source = "gymnax"
    config.topology.placement = "anakin"
    config.actors.num_envs = 64
    config.actors.unroll_length = 128
    config.network.hidden_sizes = (64, 64)
    config.network.separate_value = True
    config.agent.name = "ppo"
    config.agent.shuffle = "time"
    config.agent.minibatches = 8
    config.agent.optimizer.learning_rate = 5e-3
    config.agent.value_clip = 0.2
    return config
