"""SEED RL: R2D2 with central inference, on the memory chain of `configs/r2d2_memory.py`.

`python tools/tpu_launch.py --config configs/seed_r2d2_memory.py --env_workers 2`: environment workers step, and the
learner's process acts for them; the LSTM's state of each environment stays there. Without `--env_workers` it is bit for
bit the same run in one process. Needs Gymnax (`pip install -e '.[gymnax]'`).

Source: Espeholt et al. 2020, arXiv:1910.06591.
"""

import ml_collections

from podrl.configs import r2d2_memory


def get_config() -> ml_collections.ConfigDict:
    config = r2d2_memory.get_config()
    config.name = "seed_r2d2_memory"
    config.topology.placement = "sebulba"
    return config
