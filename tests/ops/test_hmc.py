"""Hamiltonian Monte Carlo: against integrals on a grid, and each chain by itself."""

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.ops.hmc import LARGEST_STEP, LEAST_STEP, adapt_step_size, sample_by_hmc

GRID = np.linspace(-8, 8, 4001)


def log_density(x):
    """Two independent coordinates: a Gaussian that is tilted by a value with two humps, and a wide one."""
    tilted = -jnp.square(x[..., 0] - 0.3) / 2 + 1.5 * jnp.sin(3 * jnp.tanh(x[..., 0])) + jnp.tanh(x[..., 0])
    return tilted - jnp.square(x[..., 1] + 2) / 8


def integrals(function):
    density = np.exp(np.asarray(log_density(np.stack([GRID, np.full_like(GRID, -2)], axis=-1)), np.float64))
    return np.sum(function(GRID) * density) / np.sum(density)


def sample(num=2000, **changed):
    arguments = {"step_size": 0.45, "leapfrog_steps": 4, "burn_in": 40, "num_samples": 60, **changed}
    keys = jax.random.split(jax.random.key(0), num)
    return jax.jit(lambda: sample_by_hmc(keys, log_density, jnp.full((num, 2), 3.0), **arguments))()


def test_means_are_those_of_integrals_and_most_steps_are_accepted():
    chains = sample()
    assert chains.samples.shape == (60, 2000, 2)
    assert 0.5 < float(jnp.mean(chains.acceptance)) < 0.95
    x = np.asarray(chains.samples, np.float64)
    for function in (np.tanh, np.square, lambda x: x, lambda x: x > 0.5):
        assert np.mean(function(x[..., 0])) == pytest.approx(integrals(function), rel=0.02)
    assert x[..., 1].mean() == pytest.approx(-2, rel=0.02)
    assert x[..., 1].std() == pytest.approx(2, rel=0.02)


def test_without_the_metropolis_step_large_steps_would_be_far_off():
    """Acceptance falls with the size of steps, and what is sampled stays right."""
    chains = sample(step_size=1.0, burn_in=100, num_samples=200)
    assert 0.2 < float(jnp.mean(chains.acceptance)) < 0.6
    assert np.tanh(chains.samples[..., 0]).mean() == pytest.approx(integrals(np.tanh), rel=0.02)


def test_a_chain_does_not_depend_on_those_beside_it():
    keys = jax.random.split(jax.random.key(0), (2, 4))
    start = jax.random.normal(jax.random.key(1), (2, 4, 2))
    arguments = {"step_size": 0.5, "leapfrog_steps": 2, "burn_in": 1, "num_samples": 3}
    run = jax.jit(lambda keys, start: sample_by_hmc(keys, log_density, start, **arguments))
    together, alone = run(keys, start), run(keys[1, 2:3], start[1, 2:3])
    np.testing.assert_allclose(together.samples[:, 1, 2], alone.samples[:, 0], rtol=1e-5)
    np.testing.assert_allclose(together.acceptance[1, 2], alone.acceptance[0], rtol=1e-5)
    assert len(np.unique(np.asarray(together.samples[0]).round(4))) == 16


def test_steps_out_of_the_support_are_rejected():
    def positive(x):
        return jnp.where(x[..., 0] > 0, -x[..., 0], jnp.nan)

    keys = jax.random.split(jax.random.key(0), 500)
    chains = sample_by_hmc(
        keys, positive, jnp.ones((500, 1)), step_size=0.7, leapfrog_steps=2, burn_in=20, num_samples=50
    )
    assert float(jnp.min(chains.samples)) > 0
    assert float(jnp.mean(chains.samples)) == pytest.approx(1, rel=0.03)


def test_no_gradient_flows_through_samples():
    def mean(shift):
        keys = jax.random.split(jax.random.key(0), 3)
        chains = sample_by_hmc(
            keys,
            lambda x: log_density(x - shift),
            jnp.ones((3, 2)) * shift,
            step_size=0.5,
            leapfrog_steps=1,
            burn_in=0,
            num_samples=2,
        )
        return jnp.sum(chains.samples) + jnp.sum(chains.acceptance)

    assert float(jax.jit(jax.grad(mean))(1.5)) == 0


@pytest.mark.parametrize("first", [LEAST_STEP, LARGEST_STEP])
def test_the_step_size_goes_where_as_many_steps_are_accepted_as_asked(first):
    keys = jax.random.split(jax.random.key(2), 64)

    @jax.jit
    def call(carried, number):
        position, size = carried
        folded = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)
        chains = sample_by_hmc(
            folded, log_density, position, step_size=size, leapfrog_steps=3, burn_in=0, num_samples=2
        )
        acceptance = jnp.mean(chains.acceptance)
        return (chains.samples[-1], adapt_step_size(size, acceptance, target=0.65)), acceptance

    start = (jnp.full((64, 2), 1.0), jnp.float32(first))
    (_, size), acceptance = jax.lax.scan(call, start, jnp.arange(900))
    assert float(jnp.mean(acceptance[-200:])) == pytest.approx(0.65, abs=0.02)
    assert LEAST_STEP < float(size) < LARGEST_STEP
    assert float(
        adapt_step_size(jnp.float32(first), jnp.float32(0.5 + 0.5 * (first > 1)), target=0.65)
    ) == pytest.approx(first)


def squares(step_size):
    """The mean of z^2 over chains of a standard Gaussian that start at 2, behind as few steps as MISA leaves out."""
    keys = jax.random.split(jax.random.key(3), 256)
    chains = sample_by_hmc(
        keys,
        lambda z: -0.5 * jnp.sum(jnp.square(z), axis=-1),
        jnp.full((256, 6), 2.0),
        step_size=step_size,
        leapfrog_steps=2,
        burn_in=5,
        num_samples=50,
    )
    return jnp.mean(jnp.square(chains.samples)), jnp.mean(chains.acceptance)


def test_chains_mix_where_steps_of_one_size_would_only_turn_to_the_opposite_position():
    assert float(jax.jit(squares)(2**0.5)[0]) == pytest.approx(1, rel=0.2)


def test_chains_mix_where_the_step_size_is_adapted_for_values_that_are_all_alike():
    """Nearly every step is accepted, and only the limit of sizes ends the adaptation."""

    def call(size, _):
        found, acceptance = squares(size)
        return adapt_step_size(size, acceptance, target=0.65), found

    size, found = jax.lax.scan(call, jnp.float32(1.0), jnp.arange(40))
    assert float(size) == pytest.approx(LARGEST_STEP)
    np.testing.assert_allclose(found, 1, atol=0.2)
