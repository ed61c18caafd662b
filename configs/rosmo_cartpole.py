"""ROSMO on recorded episodes of CartPole, with the learning rate and the target network of its authors.

`--config.data.path` names the episodes; docs/offline.md says how they are recorded.

Source: Liu et al. 2023, arXiv:2210.05980; see `configs/rosmo_catch.py` for what differs.
"""

import ml_collections

from podrl.configs import rosmo_catch


def get_config() -> ml_collections.ConfigDict:
    config = rosmo_catch.get_config()
    config.name = "rosmo_cartpole"
    config.env.id = "CartPole-v1"
    config.data.path = "runs/cartpole-data"
    config.total_updates = 800
    for key in ("unroll_steps", "n_steps", "target_period"):
        del config.agent[key]
    del config.agent.optimizer["learning_rate"]
    return config
