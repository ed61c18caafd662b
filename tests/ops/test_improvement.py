"""Improved policies by hand, against loops written from the papers, and their mean over samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from podrl.ops.improvement import improve_policy, sampled_improvement


def test_an_advantage_of_log_two_doubles_a_probability_before_they_are_normalised():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.2, 0.8, 0.0]]))
    advantages = jnp.log(jnp.array([[1.0, 2.0, 1.0], [4.0, 1.0, 1e6]]))
    np.testing.assert_allclose(improve_policy(logits, advantages), [[0.4, 0.4, 0.2], [0.5, 0.5, 0.0]], rtol=1e-5)


def test_what_cannot_be_done_has_no_weight():
    np.testing.assert_allclose(improve_policy(jnp.array([1.0, -jnp.inf]), jnp.array([0.0, 50.0])), [1.0, 0.0])


def test_each_sample_has_a_normaliser_without_its_own_advantage():
    rng = np.random.default_rng(0)
    actions, advantages = rng.integers(4, size=(5, 6)), rng.normal(size=(5, 6)).astype(np.float32)
    expected = np.zeros((5, 4))
    for row in range(5):
        for i in range(6):
            normaliser = (1 + sum(np.exp(advantages[row, j]) for j in range(6) if j != i)) / 6
            expected[row, actions[row, i]] += np.exp(advantages[row, i]) / normaliser / 6
    found = sampled_improvement(jnp.asarray(actions), jnp.asarray(advantages), 4)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.abs(np.sum(found, axis=-1) - 1).max() > 0.05


def test_one_sample_is_weighted_by_its_own_advantage():
    found = sampled_improvement(jnp.array([1]), jnp.log(jnp.array([3.0])), 2)
    np.testing.assert_allclose(found, [0.0, 3.0], rtol=1e-6)


@pytest.mark.parametrize("num", [64])
def test_many_samples_estimate_the_exact_policy(num):
    logits, advantages = jnp.array([0.3, -0.5, 0.0]), jnp.array([0.4, 0.1, -0.8])
    actions = jax.random.categorical(jax.random.key(0), logits, shape=(400, num))
    found = jnp.mean(sampled_improvement(actions, advantages[actions], 3), axis=0)
    np.testing.assert_allclose(found, improve_policy(logits, advantages), atol=0.02)
