"""SAC on Gymnax's pendulum, with environments inside the compiled program."""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_replayed_control_config("sac_pendulum", "Pendulum-v1", 30_000, agent="sac")
    config.env.source = "gymnax"
    config.topology.placement = "anakin"
    config.replay.capacity = 100_000
    config.replay.min_steps = 1_000
    config.agent.random_steps = 1_000
    return config
