"""Dual variables: who is moved by what, the projection, and the constraint that descent of both ends at."""

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.ops.distributions import Distribution
from podrl.ops.duals import LEAST_DUAL, dual_loss, dual_penalty, initial_multipliers, project_duals
from podrl.ops.gaussian import make_gaussian
from podrl.ops.hybrid import make_hybrid


def test_numbers_by_hand():
    assert float(dual_loss(jnp.float32(3.0), jnp.float32(0.5), 0.1)) == pytest.approx(3 * (0.1 - 0.5))
    assert float(dual_penalty(jnp.float32(3.0), jnp.float32(0.5))) == pytest.approx(1.5)


def test_each_gets_its_own_gradient_and_none_of_the_others():
    multiplier, value = jnp.float32(3.0), jnp.float32(0.5)
    assert jax.grad(dual_loss, argnums=(0, 1))(multiplier, value, 0.1) == (pytest.approx(-0.4), 0)
    assert jax.grad(dual_penalty, argnums=(0, 1))(multiplier, value) == (0, pytest.approx(3.0))


def test_the_projection_keeps_what_is_positive_and_lifts_the_rest():
    duals = {"temperature": jnp.float32(-2.0), "costs": {"a": jnp.float32(0.0), "b": jnp.float32(0.25)}}
    projected = project_duals(duals)
    assert float(projected["temperature"]) == pytest.approx(LEAST_DUAL) == float(projected["costs"]["a"])
    assert float(projected["costs"]["b"]) == 0.25


def test_descent_of_both_ends_at_the_constraint():
    """Of (x - 3)^2 subject to x <= 1: the multiplier is the slope there, 4. With x <= 5 it is not needed."""

    def solve(limit):
        def step(_, pair):
            x, multiplier = pair
            slope = jax.grad(lambda x: jnp.square(x - 3) + dual_penalty(multiplier, x))(x)
            rise = jax.grad(lambda multiplier: dual_loss(multiplier, x, limit))(multiplier)
            return x - 0.05 * slope, project_duals(multiplier - 0.05 * rise)

        return jax.lax.fori_loop(0, 2000, step, (jnp.float32(0.0), jnp.float32(1.0)))

    np.testing.assert_allclose(solve(1.0), (1.0, 4.0), rtol=1e-3)
    np.testing.assert_allclose(solve(5.0), (3.0, LEAST_DUAL), rtol=1e-3)


def test_each_divergence_of_a_policy_has_a_multiplier_of_its_own():
    policy: Distribution = make_hybrid((2, 3), make_gaussian(2, squash=False, initial_scale=1.0))
    multipliers = initial_multipliers(policy, 5.0)
    assert set(multipliers) == {"choices", "mean", "covariance"}
    assert {float(x) for x in multipliers.values()} == {5.0}
