"""One frame per step and the network's frame stack give, bit for bit, what EnvPool's own stack of four gives."""

import envpool
import jax
import numpy as np
import pytest

from podrl.config.config import EnvConfig
from podrl.envs.seeds import env_seeds
from podrl.envs.sources.envpool import make_pool, make_spec
from podrl.networks import frame_stack

NUM_ENVS, NUM_STEPS, NUM_FRAMES = 4, 450, 4


@pytest.mark.parametrize("gray_scale", [True, False])
def test_carried_stack_equals_envpools_own(gray_scale):
    # Every episode is truncated after 60 steps.
    options = {"noop_max": 1, "gray_scale": gray_scale}
    config = EnvConfig(id="Breakout-v5", max_episode_steps=60, options=options)
    seeds, options = env_seeds(1, range(NUM_ENVS)), {**options, "max_episode_steps": 60}
    spec = make_spec(config)
    actions = spec.actions.sample(np.random.default_rng(0), (NUM_STEPS, NUM_ENVS))
    whole = envpool.make(
        "Breakout-v5", "gymnasium", num_envs=NUM_ENVS, stack_num=NUM_FRAMES, env_seed=seeds, num_threads=1, **options
    )
    single = make_pool(config, seeds=seeds, num_threads=1)
    step = jax.jit(frame_stack.step_stack)

    timestep, (expected, _) = single.reset(), whole.reset()
    carry = frame_stack.initial_carry(NUM_ENVS, spec.observation, NUM_FRAMES)
    num_resets = 0
    for action in actions:
        stacked, carry = step(timestep.observation, timestep.first, carry)
        np.testing.assert_array_equal(stacked, np.moveaxis(expected, 1, -1))
        single.send(action)
        timestep, (expected, *_) = single.recv(), whole.step(action)
        num_resets += timestep.first.sum()
    assert num_resets >= 7 * NUM_ENVS
