"""Eight updates on the scripted environment, with a boundary after the fourth; its options bring the faults.

Each of the two pools takes sixteen steps until the boundary, and is opened anew there: pools 1 and 2 of a process that
starts from nothing serve the first four updates, pools 3 and 4 the last four. A process that goes on from the boundary
has pools 1 and 2 only: a fault in pool 3 hits the first process after the boundary, and no later one.
"""

import ml_collections

from configs import impala_catch


def get_config() -> ml_collections.ConfigDict:
    config = impala_catch.get_config()
    config.name = "scripted"
    config.env.source = "tests.envs.scripted"
    config.env.id = "scripted"
    config.network.hidden_sizes = (128, 64)  # One array of 32 kB, which lies in one file of any checkpoint.
    config.total_env_steps = 8 * 8 * 4
    config.actors.num_envs = 8
    config.actors.unroll_length = 4
    config.checkpoint.every_updates = 4
    config.log.every_updates = 1
    config.log.tensorboard = False
    return config
