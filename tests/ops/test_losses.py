"""Losses against numbers worked by hand, and what a mask must hide."""

import jax
import jax.numpy as jnp
import numpy as np

from podrl.ops import losses


def test_masked_mean():
    x = jnp.array([[1.0, 2.0], [3.0, 100.0]])
    mask = jnp.array([[True, True], [True, False]])
    assert losses.masked_mean(x, mask) == 2.0
    assert losses.masked_mean(x, mask, count=12) == 0.5
    assert losses.masked_mean(x, jnp.zeros_like(mask)) == 0.0
    assert losses.masked_mean(x, jnp.zeros_like(mask), count=jnp.array(0)) == 0.0


def test_masked_nan_reaches_neither_mean_nor_gradient():
    mask = jnp.array([True, True, False])
    value, gradient = jax.value_and_grad(losses.masked_mean)(jnp.array([1.0, 3.0, jnp.nan]), mask)
    assert value == 2.0
    np.testing.assert_array_equal(gradient, [0.5, 0.5, 0.0])


def test_policy_gradient_loss():
    log_probs, advantages = jnp.array([-1.0, -2.0]), jnp.array([3.0, -0.5])
    np.testing.assert_array_equal(losses.policy_gradient_loss(log_probs, advantages), [3.0, -1.0])
    total = lambda *args: losses.policy_gradient_loss(*args).sum()  # noqa: E731
    by_log_probs, by_advantages = jax.grad(total, argnums=(0, 1))(log_probs, advantages)
    np.testing.assert_array_equal(by_log_probs, [-3.0, 0.5])
    np.testing.assert_array_equal(by_advantages, [0.0, 0.0])


def test_value_loss():
    values, targets = jnp.array([1.0, 2.0]), jnp.array([4.0, 0.0])
    np.testing.assert_array_equal(losses.value_loss(values, targets), [4.5, 2.0])
    by_values, by_targets = jax.grad(lambda *args: losses.value_loss(*args).sum(), argnums=(0, 1))(values, targets)
    np.testing.assert_array_equal(by_values, [-3.0, 2.0])
    np.testing.assert_array_equal(by_targets, [0.0, 0.0])
