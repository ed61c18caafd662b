"""IMPALA on Catch in the form of TorchBeast's PolyBeast: environment servers and dynamic batching.

`python tools/tpu_launch.py --config configs/impala_catch_poly.py --env_workers 2`

Two processes step the environments. The learner's process acts for those whose timesteps have come, in batches, with
the newest parameters. Runs differ from each other, as they depend on timing
(`determinism='free'`, docs/howto/serving.md).

Source: Küttler et al. 2019, arXiv:1910.03552.
"""

import ml_collections

from podrl.configs import impala_catch


def get_config() -> ml_collections.ConfigDict:
    config = impala_catch.get_config()
    config.name = "impala_catch_poly"
    config.total_env_steps = 300_000
    config.determinism = "free"
    config.actors.pools_per_thread = 4  # Two for each worker: one steps while the actor acts for the other.
    return config
