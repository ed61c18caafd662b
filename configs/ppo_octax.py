"""PPO on Octax's Space Flight, with emulators of the CHIP-8 inside the compiled program.

Needs `pip install -e '.[octax]'`. The ship flies through a field of asteroids; the return is the distance. Another
game: `--config.env.id=brix`. The network gets the pixels of the last four frames as a vector;
`--config.network.encoder=resnet` sees them as an image, at several times the cost.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("ppo_octax", "space_flight1", total_env_steps=160_000)
    config.env.source = "octax"
    config.topology.placement = "anakin"
    config.topology.updates_per_call = 1  # On a CPU an update takes seconds.
    config.actors.num_envs = 64
    config.actors.unroll_length = 32
    config.network.hidden_sizes = (64, 64)
    config.agent.name = "ppo"
    config.agent.shuffle = "time"
    config.agent.optimizer.learning_rate = 1e-3
    return config
