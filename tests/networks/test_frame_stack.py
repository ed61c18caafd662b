"""The frame stack against a loop that keeps a list of frames, and step against unroll."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from podrl.networks import frame_stack


def loop(frames, first, num_frames):
    """Each environment keeps a list; its first frame of an episode fills it."""
    stacks = []
    for b in range(frames.shape[1]):
        kept, rows = [], []
        for t in range(frames.shape[0]):
            kept = [frames[t, b]] * num_frames if first[t, b] else [*kept[1:], frames[t, b]]
            rows.append(np.concatenate(kept, axis=-1))
        stacks.append(rows)
    return np.swapaxes(np.array(stacks), 0, 1)


def random_frames(shape, length=24, batch=5):
    generator = np.random.default_rng(0)
    frames = generator.integers(256, size=(length, batch, *shape)).astype(np.uint8)
    first = generator.random((length, batch)) < 0.2
    first[0] = True
    return frames, first


@pytest.mark.parametrize("num_frames", [1, 2, 4])
@pytest.mark.parametrize("shape", [(6, 5, 1), (4, 4, 3), (7,)])
def test_equals_loop_across_unrolls(shape, num_frames):
    frames, first = random_frames(shape)
    spec = jax.ShapeDtypeStruct(shape, np.uint8)
    carry = frame_stack.initial_carry(5, spec, num_frames)
    unrolled = []
    for rows in (slice(0, 2), slice(2, 3), slice(3, 24)):  # Shorter and longer than the stack.
        stacked, carry = frame_stack.unroll(frames[rows], first[rows], carry)
        unrolled.append(stacked)
    expected = loop(frames, first, num_frames)
    assert expected.shape[2:] == frame_stack.stacked_shape(spec, num_frames)
    assert unrolled[0].dtype == np.uint8
    np.testing.assert_array_equal(np.concatenate(unrolled), expected)


def test_bytes_are_joined_as_words_on_the_cpu_backend_only():
    frames, first = random_frames((6, 5, 1))
    carry = frame_stack.initial_carry(5, jax.ShapeDtypeStruct((6, 5, 1), np.uint8), 4)
    traced = jax.jit(frame_stack.unroll).trace(frames, first, carry)
    shifts = [
        "stablehlo.shift_left" in traced.lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "cuda", "tpu")
    ]
    assert shifts == [True, False, False]


@pytest.mark.parametrize("num_frames", [1, 4])
def test_step_equals_unroll(num_frames):
    frames, first = random_frames((4, 4, 2))
    first[0] = False
    initial = frame_stack.initial_carry(5, jax.ShapeDtypeStruct((4, 4, 2), np.uint8), num_frames)
    initial = jax.tree.map(lambda x: jax.random.bits(jax.random.key(0), x.shape, jnp.uint8), initial)
    stacked, last_carry = frame_stack.unroll(frames, first, initial)
    carry = initial
    for t in range(len(frames)):
        row, carry = frame_stack.step_stack(frames[t], first[t], carry)
        np.testing.assert_array_equal(row, stacked[t])
    jax.tree.map(np.testing.assert_array_equal, carry, last_carry)


@pytest.mark.parametrize("num_frames", [1, 2, 4])
def test_rows_are_those_of_unroll(num_frames):
    """Of the first rows as well, which see frames from before the unroll."""
    frames, first = random_frames((4, 4, 2))
    first[0] = [True, False, False, True, False]
    carry = frame_stack.initial_carry(5, jax.ShapeDtypeStruct((4, 4, 2), np.uint8), num_frames)
    carry = jax.tree.map(lambda x: jax.random.bits(jax.random.key(0), x.shape, jnp.uint8), carry)
    batch_major = jnp.swapaxes(frames, 0, 1), jnp.swapaxes(first, 0, 1)
    stacked, _ = frame_stack.unroll(*batch_major, carry, time_axis=1)
    rows = np.random.default_rng(1).integers(24, size=(5, 9))
    rows[:, :3] = [0, 1, 23]
    found = frame_stack.rows(*batch_major, carry, jnp.asarray(rows, jnp.int32))
    np.testing.assert_array_equal(found, np.take_along_axis(np.asarray(stacked), rows[..., None, None, None], axis=1))
