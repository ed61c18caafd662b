"""V-trace against numbers worked by hand, a loop written from the paper, rlax, and n-step returns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from podrl.ops.returns import gae
from podrl.ops.vtrace import vtrace


def paper_loop(values, rewards, discounts, rhos, lambda_, clip_rho, clip_pg_rho):
    """Definition (1) of the paper in float64: a double sum over rows, with no recursion."""
    length, batch = rewards.shape
    targets = np.array(values[:-1], np.float64)
    for b in range(batch):
        for s in range(length):
            weight = 1.0
            for t in range(s, length):
                delta = rewards[t, b] + discounts[t, b] * values[t + 1, b] - values[t, b]
                targets[s, b] += weight * min(clip_rho, rhos[t, b]) * delta
                weight *= discounts[t, b] * lambda_ * min(1.0, rhos[t, b])
    bootstraps = np.concatenate([targets[1:], values[-1:]])
    advantages = np.minimum(clip_pg_rho, rhos) * (rewards + discounts * bootstraps - values[:-1])
    return targets, advantages


def random_inputs(seed, length, batch):
    """Rows of [T, B] with terminations (discount 0), and reset rows (discount 0 and rho 0) after some of them."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(length + 1, batch)).astype(np.float32)
    rewards = generator.normal(size=(length, batch)).astype(np.float32)
    discounts = np.where(generator.random((length, batch)) < 0.2, 0.0, 0.95).astype(np.float32)
    rhos = np.exp(generator.normal(size=(length, batch))).astype(np.float32)
    is_reset = generator.random((length, batch)) < 0.2
    return values, rewards, np.where(is_reset, 0, discounts), np.where(is_reset, 0, rhos).astype(np.float32)


def test_hand_worked():
    # Deltas: row 1: 1 * (2 + 0.5 * 4 - 2) = 2; row 0: 0.5 * (1 + 0.5 * 2 - 1) = 0.5.
    # Targets: row 1: 2 + 2 = 4; row 0: 1 + 0.5 + 0.5 * 0.5 * 2 = 2.
    # Advantages: row 1: 2 * (2 + 0.5 * 4 - 2) = 4 (its ratio of 3 clipped at 2); row 0: 0.5 * (1 + 0.5 * 4 - 1) = 1.
    column = lambda *numbers: jnp.array(numbers, jnp.float32)[:, None]  # noqa: E731
    result = vtrace(column(1, 2, 4), column(1, 2), column(0.5, 0.5), column(0.5, 3), clip_pg_rho=2.0)
    np.testing.assert_array_equal(result.targets, column(2, 4))
    np.testing.assert_array_equal(result.advantages, column(1, 4))


@pytest.mark.parametrize(("length", "batch", "lambda_", "clip_rho", "clip_pg_rho"), [
    (1, 1, 1.0, 1.0, 1.0),
    (7, 3, 1.0, 1.0, 1.0),
    (12, 4, 0.9, 1.0, 1.0),
    (20, 2, 0.5, 2.0, 0.7),
])  # fmt: skip
def test_equals_paper_loop(length, batch, lambda_, clip_rho, clip_pg_rho):
    for seed in range(5):
        inputs = random_inputs(seed, length, batch)
        result = vtrace(*inputs, lambda_=lambda_, clip_rho=clip_rho, clip_pg_rho=clip_pg_rho)
        targets, advantages = paper_loop(*inputs, lambda_, clip_rho, clip_pg_rho)
        assert result.targets.shape == result.advantages.shape == (length, batch)
        np.testing.assert_allclose(result.targets, targets, atol=2e-5)
        np.testing.assert_allclose(result.advantages, advantages, atol=2e-5)


@pytest.mark.parametrize(("lambda_", "clip_rho", "clip_pg_rho"), [(1.0, 1.0, 1.0), (1.0, 2.0, 0.7), (0.8, 1.0, 1.0)])
def test_equals_rlax(lambda_, clip_rho, clip_pg_rho):
    rlax = pytest.importorskip("rlax")
    values, rewards, discounts, rhos = inputs = random_inputs(0, 15, 6)
    oracle = jax.vmap(
        lambda v_tm1, v_t, r, d, rho: rlax.vtrace_td_error_and_advantage(
            v_tm1, v_t, r, d, rho, lambda_, clip_rho, clip_pg_rho
        ),
        in_axes=1,
        out_axes=1,
    )(values[:-1], values[1:], rewards, discounts, rhos)
    result = vtrace(*inputs, lambda_=lambda_, clip_rho=clip_rho, clip_pg_rho=clip_pg_rho)
    np.testing.assert_allclose(result.targets - values[:-1], oracle.errors, atol=1e-5)
    if lambda_ == 1.0:  # rlax bootstraps its advantages from a mix of target and value at other lambdas.
        np.testing.assert_allclose(result.advantages, oracle.pg_advantage, atol=1e-5)


def test_on_policy_is_the_n_step_return():
    values, rewards, discounts, _ = random_inputs(3, 10, 4)
    result = vtrace(values, rewards, discounts, np.ones_like(rewards))
    n_step_return = values[-1]
    for t in reversed(range(10)):
        n_step_return = rewards[t] + discounts[t] * n_step_return
        np.testing.assert_allclose(result.targets[t], n_step_return, atol=1e-5)


@pytest.mark.parametrize("lambda_", [0.0, 0.3, 0.95, 1.0])
def test_on_policy_targets_are_values_plus_generalized_advantages(lambda_):
    """Under terminations, truncations and reset rows, where the two formulas say it differently."""
    for seed in range(5):
        values, rewards, discounts, rhos = random_inputs(seed, 20, 6)
        is_transition = rhos > 0
        result = vtrace(values, rewards, discounts, is_transition.astype(np.float32), lambda_=lambda_)
        # Terminations only: reset rows of `gae` have a discount of any size.
        anything = np.where(is_transition, discounts, np.random.default_rng(seed).random(discounts.shape))
        advantages = gae(values, rewards, anything.astype(np.float32), is_transition, lambda_=lambda_)
        np.testing.assert_allclose(result.targets, values[:-1] + advantages, atol=1e-5)


def test_reset_row_hides_what_follows():
    values, rewards, discounts, rhos = random_inputs(4, 8, 3)
    discounts[:], rhos[:] = 0.95, 1.0
    discounts[4], rhos[4] = 0.0, 0.0
    before = vtrace(values, rewards, discounts, rhos)
    rewards[4:] += 100.0
    values[5:] += 100.0
    after = vtrace(values, rewards, discounts, rhos)
    np.testing.assert_array_equal(before.targets[:4], after.targets[:4])
    np.testing.assert_array_equal(before.advantages[:5], after.advantages[:5])
    np.testing.assert_array_equal(after.targets[4], values[4])


def test_no_gradient_flows():
    values, rewards, discounts, rhos = random_inputs(5, 6, 2)

    def total(values, rhos):
        result = vtrace(values, rewards, discounts, rhos)
        return jnp.sum(result.targets + result.advantages)

    for gradient in jax.grad(total, argnums=(0, 1))(jnp.array(values), jnp.array(rhos)):
        np.testing.assert_array_equal(gradient, 0.0)
