"""Running statistics against float64, after one batch and after a hundred thousand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from podrl.ops.statistics import Statistics, initial_statistics, update_statistics

SCALAR = jax.ShapeDtypeStruct((), jnp.float32)


def starting(count, mean, variance) -> Statistics:
    count, mean, variance = (jnp.float32(x) for x in (count, mean, variance))
    return dataclasses.replace(initial_statistics(SCALAR), count=count, mean=mean, variance=variance)


def repeated(statistics, rows, times):
    """The same rows again and again, in one program."""
    mask = jnp.ones(rows.shape[:2], bool)
    return jax.jit(lambda s: jax.lax.fori_loop(0, times, lambda _, s: update_statistics(s, rows, mask), s))(statistics)


def test_the_mean_moves_where_each_batch_moves_it_by_less_than_its_last_digit():
    after = repeated(starting(640_000, 3000, 1), jnp.full((64, 1), 3001.0), 1000)
    share = 64_000 / 704_000
    np.testing.assert_allclose(after.mean, 3000 + share, rtol=1e-7)
    np.testing.assert_allclose(after.variance, (1 - share) * (1 + share), rtol=1e-6)


def test_the_variance_moves_where_each_batch_moves_it_by_less_than_its_last_digit():
    rows = 1.001 * jnp.where(jnp.arange(64) % 2, 1.0, -1.0)[:, None]
    after = repeated(starting(64e6, 0, 1), rows, 20_000)
    share = 20_000 * 64 / (64e6 + 20_000 * 64)
    np.testing.assert_allclose(after.variance - 1, share * (1.001**2 - 1), rtol=5e-3)  # Four digits of 2e-5.


def test_the_count_is_exact_beyond_the_integers_of_float32():
    after = repeated(starting(2.0**30, 0, 1), jnp.zeros((9, 7)), 1000)
    assert np.float64(after.count) + np.float64(after.remainders.count) == 2**30 + 63_000


@pytest.mark.parametrize("drift", [0.0, 10.0])
def test_a_hundred_thousand_batches_leave_the_statistics_of_float64(drift):
    """At ratios of mean to deviation from 0 to a million, the last of which float32 holds to four bits.

    Args:
        drift: of the mean over all batches, in deviations.
    """
    batches, rows = 100_000, 8
    means, deviation = np.array([0, 1, 1e3, 1e5, 1e6], np.float32), np.float32(0.7)

    def sample(index):
        noise = jax.random.normal(jax.random.fold_in(jax.random.key(3), index), (rows, 1, means.size))
        return means + deviation * (noise + drift * index / batches)

    def step(statistics, index):
        x = sample(index)
        return update_statistics(statistics, x, jnp.ones((rows, 1), bool)), x[:, 0]

    start = initial_statistics(jax.ShapeDtypeStruct(means.shape, jnp.float32))
    after, seen = jax.jit(lambda s: jax.lax.scan(step, s, jnp.arange(batches)))(start)
    seen = np.asarray(seen, np.float64).reshape(-1, means.size)
    assert after.count == len(seen)
    wrong = (np.float64(after.mean) + np.float64(after.remainders.mean) - seen.mean(0)) / seen.std(0)
    np.testing.assert_allclose(wrong, 0, atol=2e-5)
    np.testing.assert_allclose(after.variance, seen.var(0), rtol=2e-5)
    # The first of the pair is the whole, rounded.
    np.testing.assert_allclose(after.mean, seen.mean(0), rtol=1e-7, atol=1e-5)


def test_small_deviations_are_not_lost_in_the_variance_before_the_first_row():
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(50, 4)) * 1e-4, jnp.float32)
    after = update_statistics(initial_statistics(SCALAR), rows, jnp.ones((50, 4), bool))
    np.testing.assert_allclose(after.variance, np.float64(rows).var(), rtol=1e-5)


def test_the_same_rows_leave_the_same_bits():
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(50, 4)) + 300, jnp.float32)
    jax.tree.map(np.testing.assert_array_equal, *(repeated(starting(1e5, 299, 2), rows, 50) for _ in range(2)))
