"""With one group a ring holds and draws what Flashbax's prioritised trajectory buffer does.

Flashbax's buffer has no bootstrap row and overwrites one unroll less: only starts that both hold are compared.
"""

import dataclasses
import functools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.replay.priorities import write_priorities
from podrl.replay.ring import empty_ring, gather_sequences, insert_rollout
from podrl.replay.sampling import Drawn, draw_starts
from tests.replay.rings import RECURRENT, TRANSITIONS, Rollouts, rollout_shape

flashbax = pytest.importorskip("flashbax")
DRAWS = 512


@pytest.mark.parametrize(("shape", "updates"), [(RECURRENT, 9), (TRANSITIONS, 4)], ids=["recurrent", "transitions"])
def test_one_group_is_flashbaxs_buffer(shape, updates):
    shape = dataclasses.replace(shape, groups=1, batch=DRAWS, priority_exponent=0.7)
    other = flashbax.make_prioritised_trajectory_buffer(
        add_batch_size=shape.num_envs,
        sample_batch_size=DRAWS,
        sample_sequence_length=shape.length,
        period=shape.stride,
        min_length_time_axis=shape.length,
        max_length_time_axis=shape.rows,
        priority_exponent=0.7,
    )
    rollouts, like = Rollouts(shape), rollout_shape(shape)
    insert = jax.jit(functools.partial(insert_rollout, shape))
    ring, theirs = empty_ring(shape, like), None
    for _ in range(updates):
        rollout = rollouts.make()
        rows = {"action": rollout.action, "image": rollout.observation["image"][:-1]}
        rows = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), rows)
        theirs = other.init(jax.tree.map(lambda x: x[0, 0], rows)) if theirs is None else theirs
        theirs, ring = jax.jit(other.add)(theirs, rows), insert(ring, jax.tree.map(jnp.asarray, rollout))

    # Priorities of all starts; those that we do not hold are 0 in their buffer, too.
    priority = np.random.default_rng(0).exponential(size=(shape.num_envs, shape.starts)).astype(np.float32)
    live, every = np.array(ring.priority) > 0, np.arange(priority.size)
    theirs = jax.jit(other.set_priorities)(theirs, every, np.where(live, priority, 0).ravel())
    env, slot = np.divmod(every, shape.starts)
    drawn = Drawn(env=env[None], slot=slot[None], probability=live.reshape(1, -1) * 1.0, number=every[None])
    all_starts = dataclasses.replace(shape, batch=priority.size)
    written, _ = write_priorities(all_starts, ring.priority, ring.peak, drawn, jnp.asarray(priority.reshape(1, -1)))

    sample = jax.jit(other.sample)(theirs, jax.random.key(0))
    index = np.asarray(sample.indices)
    found = functools.partial(gather_sequences, shape, like, ring)(
        *np.divmod(index.astype(np.int32), shape.starts), np.arange(DRAWS, dtype=np.uint32)
    )
    experience = {"action": found.trajectory.action, "image": found.trajectory.observation["image"][:-1]}
    for name, ours in experience.items():
        np.testing.assert_array_equal(np.swapaxes(ours, 0, 1), sample.experience[name])

    envs = np.arange(shape.num_envs, dtype=np.uint32)
    ours = draw_starts(shape, 8, written, envs, ring.inserted, jax.random.key(1))
    shares = dict(zip(index.tolist(), np.asarray(sample.probabilities).tolist(), strict=True))
    drawn_here = (np.asarray(ours.env) * shape.starts + np.asarray(ours.slot)).ravel()
    both = [i for i, place in enumerate(drawn_here.tolist()) if place in shares]
    assert len(both) > DRAWS
    np.testing.assert_allclose(np.ravel(ours.probability)[both], [shares[drawn_here[i]] for i in both], rtol=1e-4)
