"""Action values: what is chosen, how often, and what it is worth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from podrl.ops.q_values import (
    conservative_loss,
    double_q_value,
    epsilon_greedy,
    greedy_action,
    rescale_value,
    sequence_priority,
    unscale_value,
    value_of_action,
)

INF = float("inf")


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_actions_are_at_random_as_often_as_epsilon_says(epsilon):
    """The greedy one among them, and never one that is masked; the standard deviation of a share is below 0.005."""
    q_values, num = jnp.array([1.0, -INF, 3.0, 2.0, -INF]), 10_000
    keys = jax.random.split(jax.random.key(0), num)
    actions = jax.jit(epsilon_greedy)(keys, jnp.broadcast_to(q_values, (num, 5)), epsilon)
    assert actions.dtype == jnp.int32
    expected = np.array([epsilon / 3, 0, 1 - epsilon + epsilon / 3, epsilon / 3, 0])
    np.testing.assert_allclose(np.bincount(actions, minlength=5) / num, expected, atol=0.02)
    assert np.all(np.bincount(actions, minlength=5)[[1, 4]] == 0)


def test_a_rows_action_depends_on_its_own_key_values_and_epsilon():
    keys = jax.random.split(jax.random.key(1), 64)
    q_values = jax.random.normal(jax.random.key(2), (64, 4))
    epsilon = jnp.linspace(0.0, 1.0, 64)
    together = epsilon_greedy(keys, q_values, epsilon)
    some = np.arange(3, 64, 7)
    np.testing.assert_array_equal(epsilon_greedy(keys[some], q_values[some], epsilon[some]), together[some])
    np.testing.assert_array_equal(together[:1], greedy_action(q_values)[:1])
    assert (together != greedy_action(q_values)).any()


def test_the_value_of_an_action_and_its_gradient_reach_no_other():
    q_values, action = jnp.array([[[1.0, 2.0, -INF]], [[4.0, 5.0, 6.0]]]), jnp.array([[1], [2]])
    np.testing.assert_array_equal(value_of_action(q_values, action), [[2.0], [6.0]])
    gradient = jax.grad(lambda q: value_of_action(q, action).sum())(q_values)
    np.testing.assert_array_equal(gradient, [[[0, 1, 0]], [[0, 0, 1]]])


def test_the_greedy_action_is_the_first_of_the_best():
    np.testing.assert_array_equal(greedy_action(jnp.array([[2.0, 3.0, 3.0], [-INF, -5.0, -INF]])), [1, 1])


def test_double_q_values_what_the_other_network_chooses():
    q_values, selector = jnp.array([[9.0, 2.0, 3.0]]), jnp.array([[-INF, 1.0, 0.0]])
    np.testing.assert_array_equal(double_q_value(q_values, selector), [2.0])


def test_values_are_rescaled_and_back_without_loss():
    """By hand: h(3) = 1 + 0.003, and its sign; the inverse keeps digits near zero and far from it."""
    np.testing.assert_allclose(rescale_value(jnp.array([3.0, -8.0, 0.0])), [1.003, -2.008, 0.0], rtol=1e-6)
    sizes = 10.0 ** np.arange(-7, 7)
    values = np.concatenate([sizes, -sizes, [0.0]]).astype(np.float32)
    exact = np.sign(values) * (np.sqrt(np.abs(values.astype(np.float64)) + 1) - 1) + 1e-3 * values.astype(np.float64)
    np.testing.assert_allclose(unscale_value(exact.astype(np.float32)), values, rtol=1e-5)
    back = unscale_value(rescale_value(jnp.array([1.0, 10.0, 1000.0])))
    np.testing.assert_allclose(back, [1.0, 10.0, 1000.0], rtol=1e-5)


def test_priorities_mix_the_largest_and_the_mean_error_of_the_rows_that_count():
    errors = jnp.array([[1.0, -4.0, 9.0], [-3.0, 2.0, 9.0], [jnp.nan, 0.0, 9.0]])
    mask = jnp.array([[True, True, False], [True, True, False], [False, True, False]])
    expected = [0.9 * 3 + 0.1 * 2, 0.9 * 4 + 0.1 * 2, 0.0]
    np.testing.assert_allclose(sequence_priority(errors, mask, share_of_max=0.9), expected, rtol=1e-6)


def test_the_conservative_loss_is_the_soft_maximum_less_the_recorded_actions_value():
    q_values = jnp.array([[1.0, 2.0, -jnp.inf], [0.0, 0.0, 50.0]])
    found = conservative_loss(q_values, jnp.array([1, 0]))
    np.testing.assert_allclose(found, [np.log(np.exp(1) + np.exp(2)) - 2, 50], rtol=1e-5)
    slopes = jax.grad(lambda x: conservative_loss(x, jnp.array([1, 0])).sum())(q_values)
    share = 1 / (1 + np.exp(1))
    np.testing.assert_allclose(slopes, [[share, -share, 0], [-1, 0, 1]], atol=1e-6)
