"""GAE and lambda-returns against numbers worked by hand, sums written from the papers, and returns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from podrl.ops.returns import clip_reward, gae, lambda_returns, n_step_bootstrap, n_step_returns


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


class TestLambdaReturns:
    def test_hand_worked(self):
        # Row 1: 2 + 0.5 * 4 = 4; row 0: 1 + 0.5 * (0.75 * 2 + 0.25 * 4) = 2.25.
        returns = lambda_returns(column(1.0, 2, 4), column(1.0, 2), column(0.5, 0.5), column(True, True), lambda_=0.25)
        np.testing.assert_array_equal(returns, column(2.25, 4))

    def test_a_truncation_bootstraps_and_a_termination_does_not(self):
        values, rewards, mask = column(1.0, 2, 8, 100, 100), column(1.0, 1, 50, 50), column(True, True, False, True)
        truncated = lambda_returns(values, rewards, column(1.0, 1, 1, 0), mask, lambda_=1.0)
        np.testing.assert_array_equal(truncated, column(1 + 1 + 8, 1 + 8, 8, 50))
        terminated = lambda_returns(values, rewards, column(1.0, 0, 1, 0), mask, lambda_=1.0)
        np.testing.assert_array_equal(terminated, column(1 + 1, 1, 8, 50))

    @pytest.mark.parametrize(("length", "batch", "lambda_"), [(1, 1, 0.65), (12, 4, 0.65), (20, 2, 0.0), (20, 2, 1.0)])
    def test_is_the_weighted_mean_of_the_returns_over_n_steps(self, length, batch, lambda_):
        """Equation 12.3 of Sutton & Barto in float64: no recursion. The last of the returns has the weight left."""
        for seed in range(5):
            values, rewards, discounts, is_transition = random_inputs(seed, length, batch)
            found = lambda_returns(values, rewards, discounts, is_transition, lambda_=lambda_)
            for t, b in np.argwhere(is_transition):
                last = next((s for s in range(t, length) if not is_transition[s, b]), length)
                returns = [n_step_return(values, rewards, discounts, t, end, b) for end in range(t + 1, last + 1)]
                weights = [(1 - lambda_) * lambda_**n for n in range(len(returns) - 1)] + [
                    lambda_ ** (len(returns) - 1)
                ]
                np.testing.assert_allclose(found[t, b], np.dot(weights, returns), atol=2e-5)
            np.testing.assert_array_equal(np.asarray(found)[~is_transition], values[:-1][~is_transition])

    def test_equals_rlaxs(self):
        rlax = pytest.importorskip("rlax")
        values, rewards, discounts, _ = random_inputs(3, 10, 4)
        found = lambda_returns(values, rewards, discounts, np.ones_like(rewards, bool), lambda_=0.65)
        for b in range(4):
            expected = rlax.lambda_returns(rewards[:, b], discounts[:, b], values[1:, b], 0.65)
            np.testing.assert_allclose(found[:, b], expected, atol=1e-5)

    def test_is_the_advantage_above_the_value(self):
        values, rewards, discounts, mask = random_inputs(4, 10, 4)
        returns = lambda_returns(values, rewards, discounts, mask, lambda_=0.9)
        advantages = gae(values, rewards, discounts, mask, lambda_=0.9)
        np.testing.assert_allclose(returns - values[:-1], advantages, atol=1e-5)

    def test_no_gradient_flows_and_a_reset_rows_reward_is_not_seen(self):
        values, rewards, discounts, mask = random_inputs(5, 6, 2)
        poisoned = np.where(mask, rewards, np.nan)
        np.testing.assert_array_equal(
            lambda_returns(values, poisoned, discounts, mask, lambda_=0.5),
            lambda_returns(values, rewards, discounts, mask, lambda_=0.5),
        )
        gradient = jax.grad(lambda values: jnp.sum(lambda_returns(values, rewards, discounts, mask, lambda_=0.5)))
        np.testing.assert_array_equal(gradient(jnp.asarray(values)), 0.0)


def n_step_return(values, rewards, discounts, start, end, b):
    total, weight = 0.0, 1.0
    for t in range(start, end):
        total += weight * np.float64(rewards[t, b])
        weight *= np.float64(discounts[t, b])
    return total + weight * values[end, b]


class TestNStepReturns:
    @pytest.mark.parametrize("num_steps", [1, 3, 20])
    def test_each_ends_after_so_many_steps_at_a_reset_or_at_the_end(self, num_steps):
        for seed in range(4):
            values, rewards, discounts, mask = random_inputs(seed, 10, 3)
            found = n_step_returns(values, rewards, discounts, mask, num_steps=num_steps)
            for t, b in np.ndindex(*rewards.shape):
                end = t
                while end < min(t + num_steps, len(rewards)) and mask[end, b]:
                    end += 1
                np.testing.assert_allclose(found[t, b], n_step_return(values, rewards, discounts, t, end, b), atol=2e-5)

    def test_one_step_by_hand(self):
        """A step, a termination, and a truncation: its final observation is the row of the reset."""
        values, rewards = np.array([[1.0], [2.0], [3.0], [4.0]]), np.array([[10.0], [20.0], [30.0]])
        discounts, mask = np.array([[0.5], [0.0], [1.0]]), np.array([[True], [True], [False]])
        found = n_step_returns(values, rewards, discounts, mask, num_steps=2)
        np.testing.assert_allclose(found[:, 0], [10 + 0.5 * 20, 20, 3])
        truncated = n_step_returns(values, rewards, np.ones((3, 1)), mask, num_steps=3)
        np.testing.assert_allclose(truncated[:, 0], [10 + 20 + 3, 20 + 3, 3])

    def test_no_gradient_flows_and_a_reset_rows_reward_is_not_seen(self):
        values, rewards, discounts, mask = random_inputs(5, 6, 2)
        poisoned = np.where(mask, rewards, np.nan)
        both = [n_step_returns(values, x, discounts, mask, num_steps=3) for x in (poisoned, rewards)]
        np.testing.assert_array_equal(*both)
        gradient = jax.grad(lambda values: jnp.sum(n_step_returns(values, rewards, discounts, mask, num_steps=3)))
        np.testing.assert_array_equal(gradient(jnp.asarray(values)), 0.0)

    @pytest.mark.parametrize("num_steps", [1, 4])
    def test_its_parts_say_what_a_value_of_the_last_row_adds(self, num_steps):
        both = jax.jit(
            lambda values, *rows: (
                n_step_returns(values, *rows, num_steps=num_steps),
                n_step_bootstrap(*rows, num_steps=num_steps),
            )
        )
        for seed in range(3):
            values, rewards, discounts, mask = random_inputs(seed, 10, 3)
            expected, parts = jax.device_get(both(values, rewards, discounts, mask))
            found = parts.rewards + parts.discounts * np.take_along_axis(values, parts.row, 0)
            np.testing.assert_allclose(found, expected, atol=2e-5)
            assert (parts.row >= np.arange(10)[:, None]).all()
            assert (parts.row <= np.arange(10)[:, None] + num_steps).all()


def test_rewards_are_clipped_on_both_sides_or_not_at_all():
    rewards = jnp.array([-3.0, 0.5, 2.0])
    np.testing.assert_array_equal(clip_reward(rewards, 1.0), [-1, 0.5, 1])
    np.testing.assert_array_equal(clip_reward(rewards, 0.0), rewards)
