"""GAE against numbers worked by hand, a sum written from the paper, and returns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from podrl.ops.returns import clip_reward, gae


def paper_sum(values, rewards, discounts, is_transition, lambda_):
    """Equation 16 of the paper in float64: a weighted sum of temporal differences for each row, with no recursion."""
    length, batch = rewards.shape
    advantages = np.zeros((length, batch))
    for b in range(batch):
        for s in range(length):
            weight = 1.0
            for t in range(s, length):
                if not is_transition[t, b]:
                    break
                advantages[s, b] += weight * (rewards[t, b] + discounts[t, b] * values[t + 1, b] - values[t, b])
                weight *= discounts[t, b] * lambda_
    return advantages


def random_inputs(seed, length, batch):
    """Terminations, and reset rows after some rows: those that did not terminate were truncated."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(length + 1, batch)).astype(np.float32)
    rewards = generator.normal(size=(length, batch)).astype(np.float32)
    discounts = np.where(generator.random((length, batch)) < 0.2, 0.0, 0.95).astype(np.float32)
    return values, rewards, discounts, generator.random((length, batch)) > 0.2


def column(*numbers):
    return jnp.array(numbers)[:, None]


def test_hand_worked():
    # Deltas: row 1: 2 + 0.5 * 4 - 2 = 2; row 0: 1 + 0.5 * 2 - 1 = 1. Advantages: 2; 1 + 0.5 * 0.5 * 2 = 1.5.
    advantages = gae(column(1.0, 2, 4), column(1.0, 2), column(0.5, 0.5), column(True, True), lambda_=0.5)
    np.testing.assert_array_equal(advantages, column(1.5, 2))


def test_a_truncation_bootstraps_from_the_final_observation_and_from_nothing_behind_it():
    # Row 1 is truncated: its next value is that of the final observation, 8. Row 2 is the reset, then a new episode.
    values, rewards, mask = column(1.0, 2, 8, 100, 100), column(1.0, 1, 50, 50), column(True, True, False, True)
    truncated = gae(values, rewards, column(1.0, 1, 1, 0), mask, lambda_=1.0)
    np.testing.assert_array_equal(truncated, column(1 + 1 + 8 - 1, 1 + 8 - 2, 0, 50 - 100))
    terminated = gae(values, rewards, column(1.0, 0, 1, 0), mask, lambda_=1.0)
    np.testing.assert_array_equal(terminated, column(1 + 1 - 1, 1 - 2, 0, 50 - 100))


@pytest.mark.parametrize(("length", "batch", "lambda_"), [(1, 1, 0.95), (12, 4, 0.95), (20, 2, 0.0), (20, 2, 1.0)])
def test_equals_the_papers_sum(length, batch, lambda_):
    for seed in range(5):
        inputs = random_inputs(seed, length, batch)
        advantages = gae(*inputs, lambda_=lambda_)
        assert advantages.shape == (length, batch)
        np.testing.assert_allclose(advantages, paper_sum(*inputs, lambda_), atol=2e-5)


def test_with_lambda_one_and_no_resets_it_is_the_return_minus_the_value():
    values, rewards, discounts, _ = random_inputs(3, 10, 4)
    returns = values[-1]
    advantages = gae(values, rewards, discounts, np.ones_like(rewards, bool), lambda_=1.0)
    for t in reversed(range(10)):
        returns = rewards[t] + discounts[t] * returns
        np.testing.assert_allclose(advantages[t], returns - values[t], atol=1e-5)


def test_no_gradient_flows():
    values, rewards, discounts, mask = random_inputs(5, 6, 2)
    gradient = jax.grad(lambda values: jnp.sum(gae(values, rewards, discounts, mask)))(jnp.asarray(values))
    np.testing.assert_array_equal(gradient, 0.0)


def test_rewards_are_clipped_on_both_sides_or_not_at_all():
    rewards = jnp.array([-3.0, 0.5, 2.0])
    np.testing.assert_array_equal(clip_reward(rewards, 1.0), [-1, 0.5, 1])
    np.testing.assert_array_equal(clip_reward(rewards, 0.0), rewards)
