"""VCR on MinAtar's Breakout in 100,000 steps: Rainbow whose imagined latents are to have the observed ones' values.

Another game: `--config.env.id=SpaceInvaders-MinAtar`. `--config.agent.auxiliary.kind=features` is SPR's loss in its
place, `--config.agent.auxiliary.weight=0` neither (docs/representations.md). Each env step has two learner steps.

Source: Yue et al. 2023, arXiv:2206.12542; Schwarzer et al. 2021, arXiv:2007.05929, for the agent; Young & Tian 2019,
arXiv:1903.03176, for the encoder.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("vcr_minatar", "Breakout-MinAtar", total_env_steps=100_000)
    config.env.source = "gymnax"
    config.topology.placement = "anakin"
    config.actors.num_envs = 16
    config.actors.unroll_length = 4
    common.use_vcr(config)
    config.network.encoder = "minatar"
    config.agent.min_value = 0.0
    config.agent.max_value = 20.0
    config.agent.max_reward = 0.0
    config.log.every_updates = 20
    return config
