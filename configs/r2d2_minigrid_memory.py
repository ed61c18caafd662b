"""R2D2 on MiniGrid's memory task: an object is seen at the start, and the same one is to be found behind a corridor."""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("r2d2_minigrid_memory", "MiniGrid-MemoryS7-v0", total_env_steps=2_000_000)
    # As in `configs/impala_minigrid.py`.
    config.env.observation_keys = ("direction", "image")
    config.env.uint8 = "numbers"
    config.actors.num_envs = 32
    config.actors.unroll_length = 20
    config.actors.env_threads = 1
    config.replay.capacity = 200_000
    config.replay.batch = 32
    config.replay.ratio = 2.0
    config.replay.min_steps = 10_000
    config.replay.groups = 8
    config.network.hidden_sizes = (128, 128)
    config.network.core = "lstm"
    config.network.core_size = 128
    config.network.last_action = True
    config.agent.name = "r2d2"
    config.agent.burn_in = 20
    config.agent.length = 40
    config.agent.discount = 0.99
    config.agent.target_period = 200
    config.agent.optimizer.learning_rate = 5e-4
    config.agent.optimizer.epsilon = 1e-5
    config.evaluate.greedy = True
    config.log.every_updates = 50
    return config
