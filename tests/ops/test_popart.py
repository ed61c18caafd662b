"""PopArt: statistics against moving moments in float64, and values that survive when the statistics move."""

import functools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.ops.popart import PopArt, initial_popart, move_popart, preserving_change

RATE = 0.03
move = jax.jit(functools.partial(move_popart, rate=RATE, min_scale=1e-2, max_scale=1e6))


def follow(popart, targets):
    """Moves the statistics towards targets in the units of the return."""
    normalized = popart.normalize(jnp.asarray(targets, jnp.float32))
    return move(popart, jnp.mean(normalized), jnp.mean(jnp.square(normalized)), np.bool_(True))


def test_the_first_statistics_change_nothing():
    values = jnp.array([-3.0, 0.5, 1e6])
    np.testing.assert_array_equal(initial_popart().normalize(values), values)
    np.testing.assert_array_equal(initial_popart().unnormalize(values), values)


@pytest.mark.parametrize("centre", [0.0, 40.0, -3000.0])
def test_equals_moving_moments_in_float64(centre):
    rng = np.random.default_rng(0)
    popart, mean, second = initial_popart(), 0.0, 1.0
    for _ in range(900):
        targets = np.float32(rng.normal(centre, 7.0, 64))
        popart = follow(popart, targets)
        mean = (1 - RATE) * mean + RATE * np.mean(np.float64(targets))
        second = (1 - RATE) * second + RATE * np.mean(np.float64(targets) ** 2)
    assert float(popart.mean) == pytest.approx(mean, rel=1e-4, abs=1e-3)
    assert float(popart.scale) == pytest.approx(np.sqrt(second - mean**2), rel=1e-2)
    assert float(popart.scale) == pytest.approx(7.0, rel=0.1)


def test_equals_rlaxs_statistics():
    rlax = pytest.importorskip("rlax")
    targets = np.random.default_rng(1).normal(2.0, 3.0, 50).astype(np.float32)
    state = rlax.PopArtState(shift=jnp.zeros(1), scale=jnp.ones(1), second_moment=jnp.ones(1))
    indices = np.zeros(50, np.int32)
    expected = rlax.art(state, targets, indices, RATE / 50, 1e-2, 1e6)  # It adds one target after the other up.
    found = follow(initial_popart(), targets)
    np.testing.assert_allclose(found.mean, expected.shift[0], rtol=1e-5)
    np.testing.assert_allclose(found.scale, expected.scale[0], rtol=1e-5)


def test_the_scale_stays_within_its_bounds():
    popart = initial_popart()
    for _ in range(500):
        popart = follow(popart, [5.0, 5.0])
    assert float(popart.scale) == pytest.approx(1e-2)
    assert float(popart.mean) == pytest.approx(5.0, rel=1e-4)
    assert float(follow(popart, [-1e12, 1e12]).scale) == 1e6


def test_what_values_mean_survives_when_the_statistics_move():
    before = PopArt(mean=jnp.float32(4.0), variance=jnp.float32(9.0), scale=jnp.float32(3.0))
    after = follow(before, [100.0, 300.0, -50.0])
    assert float(after.scale) > 10
    factor, shift = preserving_change(before, after)
    outputs = jnp.linspace(-5, 5, 11)
    np.testing.assert_allclose(after.unnormalize(factor * outputs + shift), before.unnormalize(outputs), rtol=1e-6)


def test_without_targets_all_stays_as_it_was_bit_for_bit():
    before = PopArt(mean=jnp.float32(0.1), variance=jnp.float32(0.3), scale=jnp.sqrt(jnp.float32(0.3)))
    after = move(before, jnp.float32(0.0), jnp.float32(0.0), np.bool_(False))
    jax.tree.map(np.testing.assert_array_equal, after, before)
    assert tuple(map(float, preserving_change(before, after))) == (1.0, 0.0)


@pytest.mark.parametrize("target", [1.1, -0.7, 123.4])
def test_of_equal_targets_the_variance_is_not_below_zero(target):
    """The square of 1.1 rounds to above what its mean square rounds to."""
    mean = jnp.float32(target)
    square = jnp.nextafter(jnp.square(mean), jnp.float32(0))
    moved = move_popart(initial_popart(), mean, square, np.bool_(True), rate=1.0, min_scale=1e-2, max_scale=1e6)
    assert float(moved.variance) == 0
    assert float(moved.scale) == np.float32(1e-2)
