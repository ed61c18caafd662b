"""IMPALA on Procgen: CoinRun, which generates new levels for each episode.

Hyper-parameters that are not IMPALA's own follow Cobbe et al. 2019, arXiv:1912.01588: discount 0.999, one frame. Needs
the Qt 5 libraries: `apt-get install libqt5gui5`.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("impala_procgen", "CoinrunEasy-v0", total_env_steps=25_000_000)
    config.actors.num_envs = 64
    config.actors.unroll_length = 20
    config.network.encoder = "resnet"
    config.agent.name = "impala"
    config.agent.discount = 0.999
    config.agent.minibatches = 2
    config.log.every_updates = 5
    config.checkpoint.every_updates = 2000
    return config
