"""Samples of a policy that is tilted by its critics, p(a|s) ~ pi(a|s) e^min Q(s, a), by Hamiltonian Monte Carlo.

A squashed action is a = tanh(mean + scale z). In z the policy's density is a standard Gaussian: the slope of the
squashing is in both the density of the actions and the change of variables, and cancels. So the density of z is
proportional to e^(min Q(s, tanh(mean + scale z)) - |z|^2 / 2), which is finite everywhere, and one step size suits
policies of every scale.

Source: Ma et al. 2022, arXiv:2210.07484, section 4, on the gradient by the policy.
"""

import dataclasses
from typing import Any

import jax
from jax import numpy as jnp

from podrl.agents.parts.critic_steps import noise_keys
from podrl.agents.parts.twin_critic import TwinCritic
from podrl.ops.gaussian import gaussian_log_prob, log_slope
from podrl.ops.hmc import Chains, sample_by_hmc
from podrl.types import PyTree, Trajectory


def sample_tilted(
    config: Any, networks: TwinCritic, params: PyTree, trajectory: Trajectory, key: jax.Array, step_size: jax.Array
) -> Chains:
    """Runs a chain from the recorded action of each row.

    Args:
        config: The agent's config, with `hmc_leapfrog_steps`, `hmc_burn_in`, `action_samples` (S) and `max_action`.
        networks: The agent's networks; the policy is a squashed Gaussian.
        params: The parameters of policy and critics; no gradient flows to them.
        trajectory: [T, B], with the network's carry.
        key: A key; each row folds in its own number.
        step_size: []; of a leapfrog step, in units of the policy's scale.

    Returns:
        Samples [S, T, B, D] before squashing, and the mean acceptance of each row [T, B].
    """
    params = jax.lax.stop_gradient(params)
    mean, scale = gaussian_of(networks, networks.policy_at(params, trajectory, 0))

    def log_density(z: jax.Array) -> jax.Array:
        values = networks.values_at(params, trajectory, 0, jnp.tanh(mean + scale * z))
        return jnp.min(values, axis=-1) - 0.5 * jnp.sum(jnp.square(z), axis=-1)

    start = jnp.arctanh(jnp.clip(trajectory.action, -config.max_action, config.max_action))
    chains = sample_by_hmc(
        noise_keys(key, trajectory),
        log_density,
        (start - mean) / scale,
        step_size=step_size,
        leapfrog_steps=config.hmc_leapfrog_steps,
        burn_in=config.hmc_burn_in,
        num_samples=config.action_samples,
    )
    return dataclasses.replace(chains, samples=mean + scale * chains.samples)


def log_prob_before_squashing(networks: TwinCritic, output: jax.Array, u: jax.Array) -> jax.Array:
    """Log-probabilities of the actions tanh(u), [S, T, B, D], under what the policy puts out [T, B, P]; [S, T, B]."""
    return gaussian_log_prob(*gaussian_of(networks, output), u) - jnp.sum(log_slope(u), axis=-1)


def gaussian_of(networks: TwinCritic, output: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation before squashing, [..., D] each, of what the policy puts out [..., P].

    Raises:
        ValueError: If the policy is no Gaussian.
    """
    if networks.distribution.gaussian is None:
        raise ValueError("Found a policy that is no Gaussian; expected a squashed one.")
    return networks.distribution.gaussian(output)
