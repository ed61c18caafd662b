"""Draws follow priorities: by statistics, by probability, and never to what is not there."""

import functools

import jax
from jax import numpy as jnp
import numpy as np
import pytest
from scipy import stats

from podrl.replay.priorities import write_priorities
from podrl.replay.sampling import Drawn, draw_by_priority, draw_starts, importance_weights
from podrl.replay.shape import RingShape

CHUNK, DRAWS = 2**14, 2**20


@functools.partial(jax.jit, static_argnums=2)
def draw_many(priority, key, num):
    return jax.lax.map(functools.partial(draw_by_priority, CHUNK, priority), jax.random.split(key, num // CHUNK))


@pytest.mark.parametrize(("size", "num"), [(1, CHUNK), (2, CHUNK), (3, CHUNK), (1000, DRAWS), (2**12 + 1, 4 * CHUNK)])
def test_indices_are_drawn_in_proportion_to_priorities_of_which_some_are_zero(size, num):
    generator = np.random.default_rng(size)
    priority = (generator.pareto(1.5, size) * (generator.random(size) < 0.7)).astype(np.float32)
    priority[-1] = 1
    index, probability = map(np.ravel, draw_many(priority, jax.random.key(0), num))
    share = priority.astype(np.float64) / priority.sum(dtype=np.float64)

    np.testing.assert_allclose(probability, share[index], rtol=1e-5)
    found, expected = np.bincount(index, minlength=size), num * share
    assert not found[priority == 0].any()
    often = expected > 20
    if often.sum() > 1:
        rest_found, rest = num - found[often].sum(), num - expected[often].sum()
        squares = (found[often] - expected[often]) ** 2 / expected[often]
        chi2 = squares.sum() + ((rest_found - rest) ** 2 / rest if rest > 1 else 0)
        assert 1e-4 < stats.chi2.sf(chi2, often.sum()) < 1 - 1e-4


def test_a_million_priorities_leave_none_without_a_number_that_leads_to_it():
    """One float32 sum would: it leaves thousands of the last ones out, and moves most others' shares by percents."""
    priority, num = np.random.default_rng(0).random(10**6).astype(np.float32), CHUNK
    index, _ = map(np.ravel, draw_many(priority, jax.random.key(1), num))
    for part in (lambda i: i // 1000, lambda i: i % 1000):
        expected = num * np.bincount(part(np.arange(10**6)), priority / priority.sum(dtype=np.float64))
        assert stats.chisquare(np.bincount(part(index), minlength=1000), expected).pvalue > 1e-4


def test_priorities_far_apart_and_all_zero_are_finite():
    index, probability = draw_by_priority(64, jnp.array([0, 1e-12, 1e30, 0, 1e30]), jax.random.key(0))
    assert set(np.asarray(index).tolist()) == {2, 4}
    np.testing.assert_allclose(probability, 0.5)
    index, probability = draw_by_priority(64, jnp.zeros(7), jax.random.key(0))
    assert (index < 7).all()
    assert (probability == 0).all()


@pytest.mark.parametrize("uniform", [0, 0.5, 1 - 2**-23])
def test_rounding_leads_to_no_index_of_priority_zero(uniform, monkeypatch):
    """A running sum over zeros may differ from the one before them, and from the sum of all."""
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: jnp.full(shape, uniform))
    generator = np.random.default_rng(0)
    priority = generator.random((20_000, 32)) * (generator.random((20_000, 32)) < 0.5)
    priority[:, 0] = 0
    index, probability = jax.vmap(lambda p: draw_by_priority(1, p, jax.random.key(0)))(priority.astype(np.float32))
    assert (np.take_along_axis(priority, np.asarray(index), 1) > 0).all()
    assert (probability > 0).all()


def test_uniform_draws_give_every_live_start_alike():
    shape = RingShape(num_envs=6, unroll_length=4, unrolls=5, length=2, stride=1, before=3, groups=2, batch=2**18)
    draw = jax.jit(functools.partial(draw_starts, shape, 4, ()))
    drawn = draw(np.arange(6, dtype=np.uint32), 8, jax.random.key(0))
    live = np.arange(16, 31) % 20  # The ring has rows 13 to 32, and each start needs three before it and two more.
    assert set(np.unique(drawn.slot)) == set(live)
    groups = np.arange(shape.batch) // shape.draws
    np.testing.assert_allclose(drawn.probability, 1 / (len(live) * 6), rtol=1e-6)
    cells = np.bincount((drawn.env + 3 * groups).ravel() * 20 + drawn.slot.ravel(), minlength=120)
    cells = cells.reshape(6, 20)[:, live].ravel()
    assert cells.sum() == 4 * shape.batch
    assert stats.chisquare(cells).pvalue > 1e-4


def test_weights_undo_the_draws_and_know_what_was_not_drawn():
    probability = jnp.array([[0.1, 0.2, 0.4], [0.5, 0.5, 0.25], [0, 0, 0]])
    expected = [[1, 0.5, 0.25], [0.5, 0.5, 1], [0, 0, 0]]
    np.testing.assert_allclose(importance_weights(probability, 1.0), expected, rtol=1e-6)
    np.testing.assert_allclose(importance_weights(probability, 0.5), np.sqrt(expected), rtol=1e-6)


def test_a_start_drawn_often_gets_its_largest_priority_in_any_order_and_keeps_the_old_one_without():
    shape = RingShape(
        num_envs=4, unroll_length=1, unrolls=8, length=1, stride=1, groups=2, batch=4, priority_exponent=0.5
    )
    old = np.full((4, 8), 7, np.float32)
    env = np.array([[0, 1, 1, 0], [0, 0, 1, 1]])  # Of the groups 0, 0, 1, 1.
    slot = np.array([[2, 3, 5, 6], [2, 2, 5, 1]])
    new = np.array([[4, np.nan, 1, np.inf], [9, 0, np.nan, -3]], np.float32)
    chance = np.array([[1, 1, 1, 1], [1, 1, 1, 1]], np.float32)
    drawn = Drawn(env=env, slot=slot, probability=chance, number=np.zeros_like(env))
    expected = old.copy()
    expected[0, 2], expected[3, 5], expected[3, 1] = 3, 1, 1e-12
    for order in ([0, 1], [1, 0]):
        flipped = jax.tree.map(lambda x, order=order: x[order], drawn)
        priority, peak = jax.jit(functools.partial(write_priorities, shape))(old, np.ones(2), flipped, new[order])
        np.testing.assert_allclose(priority, expected)
        np.testing.assert_allclose(peak, [3, 1])
    none = Drawn(env=env, slot=slot, probability=0 * chance, number=drawn.number)
    priority, peak = jax.jit(functools.partial(write_priorities, shape))(old, np.ones(2), none, new)
    np.testing.assert_array_equal(priority, old)
    np.testing.assert_array_equal(peak, 1)
