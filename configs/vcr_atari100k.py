"""VCR on Atari in 100,000 steps, 400,000 frames: `python tools/tpu_launch.py --config configs/vcr_atari100k.py`.

Another game: `--config.env.id=Pong-v5`. With `--config.agent.auxiliary.kind=features` it is SPR, with `none` the agent
of both without a model (docs/representations.md). Games are played by the protocol of that benchmark: without sticky
actions, with the game's own actions, after up to 30 steps without one, and a lost life ends an episode. Images are
shifted and brightened at random. Four environments make the experience, in place of one.

Source: Yue et al. 2023, arXiv:2206.12542; Schwarzer et al. 2021, arXiv:2007.05929, appendix, for the agent's numbers;
Kaiser et al. 2020, arXiv:1903.00374, for the protocol.
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("vcr_atari100k", "Breakout-v5", total_env_steps=100_000)
    config.env.options = common.atari_options()
    config.env.options.repeat_action_probability = 0.0
    config.env.options.full_action_space = False
    config.env.options.episodic_life = True
    config.env.options.noop_max = 30
    config.actors.num_envs = 4
    config.actors.unroll_length = 2
    config.actors.env_threads = 1
    common.use_vcr(config)
    config.network.encoder = "nature"
    config.network.frame_stack = 4
    config.agent.augment = {"kinds": ("shift", "intensity")}
    config.checkpoint.every_updates = 0  # Reopened games would begin anew, and a run has few.
    config.log.every_updates = 100
    return config
