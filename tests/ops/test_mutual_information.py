"""Bounds of the mutual information on Gaussians, where it and they are known, and what their gradients are.

States s are standard Gaussian, actions are r s + sqrt(1 - r^2) noise, so I(S; A) = -log(1 - r^2) / 2 and h(A) =
log(2 pi e) / 2. The policy is a Gaussian of mean m s and deviation d, and Q(s, a) = c s a, for which by hand

    tilted = ba + c r - c m - d^2 c^2 / 2
    dv     = ba + c r + log(1 - 2 c m - d^2 c^2) / 2
"""

import math

import jax
from jax import numpy as jnp
from jax.scipy.special import ndtri
import numpy as np
import pytest

from podrl.ops.mutual_information import (
    donsker_varadhan_gap,
    donsker_varadhan_normalizer,
    information_rows,
    log_mean_exp,
    tilted_gap,
)

R = 0.6
TRUTH = -math.log(1 - R**2) / 2
ENTROPY = math.log(2 * math.pi * math.e) / 2
NUM = 1500
QUANTILES = np.asarray(ndtri((np.arange(NUM) + 0.5) / NUM), np.float32)  # A standard Gaussian, without chance.


def bounds(c, *, mean=0.0, deviation=1.0):
    return {name: float(bound) for name, bound in _bounds(c, mean, deviation).items()}


@jax.jit
def _bounds(c, mean, deviation):
    """All three bounds, of actions at every quantile in every state."""
    s = jnp.asarray(QUANTILES)
    a, sampled = (m * s[:, None] + d * s for m, d in ((R, math.sqrt(1 - R**2)), (mean, deviation)))
    log_probs = -jnp.square((a - mean * s[:, None]) / deviation) / 2 - jnp.log(deviation * math.sqrt(2 * math.pi))
    values, sampled = c * s[:, None] * a, c * s[:, None] * sampled
    normalizer = donsker_varadhan_normalizer(sampled, jnp.ones(NUM))
    gaps = {
        "ba": 0.0,
        "dv": donsker_varadhan_gap(jnp.mean(values, axis=1), sampled, normalizer),
        "tilted": tilted_gap(jnp.mean(values, axis=1), sampled),
    }
    mean_log_probs = jnp.mean(log_probs, axis=1)
    return {name: jnp.mean(information_rows(mean_log_probs, gap)) + ENTROPY for name, gap in gaps.items()}


def by_hand(c, mean, deviation):
    ba = ENTROPY - math.log(deviation * math.sqrt(2 * math.pi))
    ba -= ((R - mean) ** 2 + 1 - R**2) / (2 * deviation**2)
    dv = ba + c * R + math.log(1 - 2 * c * mean - (c * deviation) ** 2) / 2
    return {"ba": ba, "dv": dv, "tilted": ba + c * R - c * mean - (c * deviation) ** 2 / 2}


@pytest.mark.parametrize(("c", "mean", "deviation"), [(0.3, 0.0, 1.0), (-0.3, 0.0, 1.0), (0.2, 0.4, 0.9)])
def test_bounds_are_those_worked_by_hand(c, mean, deviation):
    found, expected = bounds(c, mean=mean, deviation=deviation), by_hand(c, mean, deviation)
    assert found == pytest.approx(expected, abs=3e-3)
    assert all(bound < TRUTH for bound in found.values())


def test_they_tighten_from_one_to_the_next_below_the_truth_if_each_has_the_best_q_of_its_family():
    """The family has a constant, c = 0. For a Q that is wrong, the bound without one is the highest."""
    found = [bounds(c) for c in np.linspace(-0.2, 0.8, 21)]
    best = {name: max(bound[name] for bound in found) for name in ("ba", "dv", "tilted")}
    assert best["ba"] + 0.1 < best["dv"]
    assert best["dv"] + 0.015 < best["tilted"]
    assert best["tilted"] + 0.03 < TRUTH
    assert all(bound["dv"] <= bound["tilted"] for bound in found)  # For every Q.
    wrong = bounds(-0.2)
    assert wrong["ba"] > wrong["tilted"] > wrong["dv"]


def test_the_tilted_bound_is_the_truth_where_the_tilted_policy_is_that_of_the_data():
    """Which takes no more than Q = log p(a|s) / pi(a|s), up to any function of the state."""
    s, variance = jnp.asarray(QUANTILES), 1 - R**2
    a = R * s[:, None] + math.sqrt(variance) * s

    def ratio(a):  # With the state along the first axis.
        data = -jnp.square(a - R * s[:, None]) / (2 * variance) - math.log(variance) / 2
        return data + jnp.square(a) / 2 + 5 * jnp.sin(s[:, None])

    gaps = tilted_gap(jnp.mean(ratio(a), axis=1), ratio(jnp.broadcast_to(s, a.shape)))
    log_probs = jnp.mean(-jnp.square(a) / 2 - math.log(2 * math.pi) / 2, axis=1)
    assert float(jnp.mean(information_rows(log_probs, gaps))) + ENTROPY == pytest.approx(TRUTH, abs=3e-3)


def random_values(seed, rows=6, samples=5):
    rng = np.random.default_rng(seed)
    return rng.normal(size=rows).astype(np.float32) * 3, rng.normal(size=(rows, samples)).astype(np.float32) * 3


def test_a_mean_of_exponentials_does_not_grow_with_the_number_of_samples():
    _, sampled = random_values(0)
    once, thrice = log_mean_exp(sampled), log_mean_exp(np.concatenate([sampled] * 3, axis=1))
    np.testing.assert_allclose(thrice, once, rtol=1e-5)
    np.testing.assert_allclose(once, np.log(np.mean(np.exp(np.float64(sampled)), axis=1)), rtol=1e-5)
    assert log_mean_exp(np.full((2, 50), 700.0)) == pytest.approx(700.0)


def test_the_tilted_gaps_gradient_is_that_of_samples_weighted_by_their_exponentials():
    values, sampled = random_values(1)
    down, up = jax.grad(lambda q, x: jnp.sum(tilted_gap(q, x)), argnums=(1, 0))(values, sampled)
    weights = np.exp(np.float64(sampled))
    np.testing.assert_allclose(down, weights / weights.sum(axis=1, keepdims=True), rtol=1e-4)
    np.testing.assert_array_equal(up, -1)


@pytest.mark.parametrize("weight", [np.ones(6), np.array([1.0, 0.5, 0.0, 2.0, 0.0, 1.0])])
def test_parts_of_a_batch_sum_to_the_gradient_of_one_normalizer_of_all_states(weight):
    """Where a row without weight has values that would overflow, too."""
    values, sampled = random_values(2)
    sampled[4] += 8 if weight[4] else 300
    weight = np.float32(weight)
    normalizer = donsker_varadhan_normalizer(sampled, weight)

    def part(sampled, values, weight_here):
        return jnp.sum(weight_here * donsker_varadhan_gap(values, sampled, normalizer)) / weight.sum()

    value_and_grad = jax.jit(jax.value_and_grad(part))
    parts = [value_and_grad(sampled[rows], values[rows], weight[rows]) for rows in (slice(0, 3), slice(3, 6))]
    shares = weight[:, None] * np.exp(np.float64(sampled))
    expected = np.log(shares.sum() / (5 * weight.sum())) - np.sum(weight * values) / weight.sum()
    assert float(sum(loss for loss, _ in parts)) == pytest.approx(expected, rel=1e-4)
    slopes = np.concatenate([slope for _, slope in parts])
    np.testing.assert_allclose(slopes, shares / shares.sum(), rtol=1e-3, atol=1e-9)


def test_rows_without_weight_leave_everything_finite():
    values, sampled = random_values(3)
    normalizer = donsker_varadhan_normalizer(sampled + 500, np.zeros(6, np.float32))
    assert float(normalizer) == 0
    loss, slope = jax.value_and_grad(lambda x: jnp.sum(0 * donsker_varadhan_gap(values, x, normalizer)))(sampled + 500)
    assert np.isfinite(loss)
    assert np.isfinite(slope).all()
