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


def test_expectile_loss():
    values, targets = jnp.array([1.0, 1.0]), jnp.array([3.0, 0.0])
    np.testing.assert_allclose(losses.expectile_loss(values, targets, 0.9), [0.9 * 4, 0.1 * 1], rtol=1e-6)
    by_values, by_targets = jax.grad(lambda *args: losses.expectile_loss(*args, 0.9).sum(), (0, 1))(values, targets)
    np.testing.assert_allclose(by_values, [-2 * 0.9 * 2, 2 * 0.1], rtol=1e-6)
    np.testing.assert_array_equal(by_targets, [0.0, 0.0])


def test_clipped_surrogate_loss():
    """No gradient where the ratio has moved by more than the clip in the direction that the advantage asks for."""
    rhos = jnp.array([1.0, 1.5, 0.5, 1.5, 0.5])
    advantages = jnp.array([2.0, 1.0, 1.0, -1.0, -1.0])
    np.testing.assert_allclose(
        losses.clipped_surrogate_loss(rhos, advantages, 0.2), [-2.0, -1.2, -0.5, 1.5, 0.8], rtol=1e-6
    )
    total = lambda *args: losses.clipped_surrogate_loss(*args, 0.2).sum()  # noqa: E731
    by_rhos, by_advantages = jax.grad(total, argnums=(0, 1))(rhos, advantages)
    np.testing.assert_array_equal(by_rhos, [-2.0, 0.0, -1.0, 1.0, 0.0])
    np.testing.assert_array_equal(by_advantages, 0.0)


def test_clipped_value_loss():
    """No gradient where the value has moved by more than the clip towards its target; the larger loss where away."""
    before, targets = jnp.zeros(4), jnp.array([2.0, 2.0, 2.0, -2.0])
    values = jnp.array([0.1, 1.0, -1.0, -1.0])
    loss = lambda values: losses.clipped_value_loss(values, before, targets, 0.5)  # noqa: E731
    np.testing.assert_allclose(loss(values), [0.5 * 1.9**2, 0.5 * 1.5**2, 0.5 * 3**2, 0.5 * 1.5**2], rtol=1e-6)
    gradient = jax.grad(lambda values: loss(values).sum())(values)
    np.testing.assert_allclose(gradient, [-1.9, 0.0, -3.0, 0.0], rtol=1e-6)


def test_mean_and_deviation_of_what_the_mask_leaves():
    x, mask = jnp.array([[1.0, 3.0], [jnp.nan, 5.0]]), jnp.array([[True, True], [False, True]])
    mean, deviation = losses.mean_and_deviation(x, mask)
    assert mean == 3.0
    np.testing.assert_allclose(deviation, np.std([1, 3, 5]), rtol=1e-6)
    assert losses.mean_and_deviation(x, jnp.zeros_like(mask)) == (0.0, 0.0)


def test_cross_entropy_ignores_what_has_no_weight_and_is_impossible():
    logits = jnp.log(jnp.array([[0.25, 0.75, 0.0]]))
    total = lambda *args: losses.cross_entropy_loss(*args).sum()  # noqa: E731
    value, (by_weights, by_logits) = jax.value_and_grad(total, argnums=(0, 1))(jnp.array([[1.0, 2.0, 0.0]]), logits)
    np.testing.assert_allclose(value, -(np.log(0.25) + 2 * np.log(0.75)), rtol=1e-6)
    np.testing.assert_array_equal(by_weights, 0.0)
    np.testing.assert_allclose(by_logits, [[3 * 0.25 - 1, 3 * 0.75 - 2, 0.0]], atol=1e-6)
