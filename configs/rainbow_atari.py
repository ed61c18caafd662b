"""Rainbow on Atari: `python tools/tpu_launch.py --config configs/rainbow_atari.py`.

Another game: `--config.env.id=Pong-v5`. Hyper-parameters are the paper's, most of them the agent's defaults, with 64
environments in place of one: each env step has the same share of a learner step. Two things differ. The paper's
importance exponent rises from 0.4 to 1 over the run, here it stays. The encoder is Nature's with its dense layer,
before the noisy layer of 512; the paper has that noisy layer on the convolutions. Games are played as there: without
sticky actions, with the game's own actions, after up to 30 steps without one, and a lost life ends an episode.

Source: Hessel et al. 2018, arXiv:1710.02298, table 1 and section "Hyper-parameter tuning".
"""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.make_config("rainbow_atari", "Breakout-v5", total_env_steps=50_000_000)
    config.env.options = common.atari_options()
    config.env.options.repeat_action_probability = 0.0
    config.env.options.full_action_space = False
    config.env.options.episodic_life = True
    config.env.options.noop_max = 30
    config.actors.num_envs = 64
    config.actors.unroll_length = 4
    config.replay.capacity = 1_000_000
    config.replay.batch = 32
    config.replay.ratio = 8.0
    config.replay.min_steps = 20_000
    config.replay.priority_exponent = 0.5
    config.replay.importance_exponent = 0.4
    config.network.encoder = "nature"
    config.network.frame_stack = 4
    config.agent.name = "rainbow"
    config.evaluate.greedy = True
    config.log.every_updates = 20
    config.checkpoint.every_updates = 10_000  # Updates of 4 steps each: above the games' time limit, 27,000 steps.
    return config
