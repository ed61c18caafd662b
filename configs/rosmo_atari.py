"""ROSMO on recorded games of Atari, Pong unless another is named, with the network of its authors.

`--config.data.path` names the games; docs/offline.md says how they are recorded. Games are played by Cleanba's rules,
as `configs/impala_atari.py` has them. The learning rate falls to zero; the authors' falls to a tenth.

Source: Liu et al. 2023, arXiv:2210.05980, appendix: 64 channels and 6, 2 and 2 residual blocks, 601 bins, batches of
512, 200,000 learner steps.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("rosmo_atari", "Pong-v5", total_env_steps=0)
    config.total_updates = 20_000
    config.data.path = "runs/pong-data"
    config.data.batch = 512
    config.data.learner_steps = 10
    config.env.options = common.atari_options()
    config.network.encoder = "resnet"
    config.network.frame_stack = 4
    config.network.compute_dtype = "bfloat16"
    config.agent.name = "rosmo"
    config.agent.latent = "image"
    config.agent.max_reward = 1.0
    config.agent.optimizer.warmup_updates = 100
    config.evaluate.greedy = True
    config.log.every_updates = 100
    return config
