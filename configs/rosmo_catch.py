"""ROSMO on recorded episodes of Catch: learns within a minute on a laptop.

`--config.data.path` names the episodes; docs/offline.md says how they are recorded. With
`--config.agent.improvement=mcts` it is MuZero Unplugged, which needs `pip install -e '.[mctx]'`.

Source: Liu et al. 2023, arXiv:2210.05980, for the unroll and the bins. They learn from 512 sequences at a time, 200,000
times, with a learning rate of 7e-4 and a target network that is 200 updates old. The learning rate here is larger and
the target network younger, since a run is so short.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("rosmo_catch", "Catch-v0", total_env_steps=0)
    config.total_updates = 500
    config.data.path = "runs/catch-data"
    config.data.batch = 128
    config.data.learner_steps = 10
    config.network.hidden_sizes = (64, 64)
    config.agent.name = "rosmo"
    config.agent.unroll_steps = 3
    config.agent.n_steps = 3
    config.agent.num_bins = 21
    config.agent.target_period = 50
    config.agent.optimizer.learning_rate = 2e-3
    config.agent.optimizer.warmup_updates = 50
    config.evaluate.greedy = True
    config.log.every_updates = 10
    return config
