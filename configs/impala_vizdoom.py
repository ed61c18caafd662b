"""IMPALA on ViZDoom: turn and shoot approaching enemies, from pixels.

The rewards are EnvPool's: 1 for a kill, less for damage taken; `env.options.reward_config` lists them all.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("impala_vizdoom", "DefendTheCenter-v1", total_env_steps=5_000_000)
    config.env.options = {"frame_skip": 4, "use_combined_action": True}
    config.actors.num_envs = 16
    config.actors.unroll_length = 20
    config.network.encoder = "nature"
    config.network.frame_stack = 4
    config.agent.name = "impala"
    return config
