"""IMPALA on Catch with actors in processes of their own, as in MonoBeast: add `--actor_workers 2`.

Without that flag its two actors are threads, and learn the same bit for bit.

Source: Kuettler et al. 2019 (TorchBeast), arXiv:1910.03552.
"""

import ml_collections

from podrl.configs import impala_catch


def get_config() -> ml_collections.ConfigDict:
    config = impala_catch.get_config()
    config.name = "impala_catch_mono"
    config.actors.threads_per_device = 2
    config.actors.pools_per_thread = 1
    return config
