"""The functions that actor-critic agents share: a fresh state, and acting with the network's policy."""

from collections.abc import Callable

import jax
from jax import numpy as jnp
import optax

from podrl.agents.parts.interface import Batch
from podrl.agents.parts.optimizing import OptimizerOverRun
from podrl.networks.interface import Network, NetworkOutput
from podrl.types import LearnerState, PyTree, Timestep, Trajectory


def make_init(
    network: Network, optimizer: optax.GradientTransformation | OptimizerOverRun
) -> Callable[[jax.Array], LearnerState]:
    """Returns `Agent.init` for an agent whose state is a network's parameters and its optimizer's state."""

    def init(key: jax.Array) -> LearnerState:
        state_key, params_key = jax.random.split(key)
        params = network.init(params_key)
        step, learner_step = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)  # Two, as both may be donated.
        return LearnerState(
            step=step,
            learner_step=learner_step,
            params=params,
            opt_state=optimizer.init(params),
            extra=(),
            key=state_key,
        )

    return init


def fresh_rollouts(batch: Batch) -> Trajectory:
    """Returns a batch's rollouts, for an agent that learns only from them and weights all alike.

    Raises:
        ValueError: If the batch has no rollouts.
    """
    if batch.rollouts is None:
        raise ValueError("Found a batch without rollouts; this agent learns from the experience of its own run.")
    return batch.rollouts.trajectory


def make_initial_carry(network: Network) -> Callable[[jax.Array], PyTree]:
    """Returns `Agent.initial_carry` for an agent that starts alike in every environment."""
    return lambda env_index: network.initial_carry(env_index.shape[0])


def make_act(
    network: Network, record: Callable[[NetworkOutput], PyTree]
) -> Callable[[PyTree, Timestep, PyTree, jax.Array], tuple[jax.Array, PyTree, PyTree]]:
    """Returns an `Agent.act` that samples from the policy and needs only the network's parameters.

    Args:
        network: The actor-critic network.
        record: (output of [B, ...]) -> `Trajectory.behaviour`, a pytree of [B, ...].
    """

    def act(params: PyTree, timestep: Timestep, carry: PyTree, keys: jax.Array) -> tuple[jax.Array, PyTree, PyTree]:
        output, carry = network.step(params, timestep, carry)
        action = network.policy.sample(keys, output.policy)
        return action, record(output), network.remember(carry, action)

    return act


def make_act_greedy(network: Network) -> Callable[[PyTree, Timestep, PyTree, jax.Array], tuple[jax.Array, PyTree]]:
    """Returns an `Agent.act_greedy` that takes the policy's mode, and ignores the keys."""

    def act_greedy(params: PyTree, timestep: Timestep, carry: PyTree, keys: jax.Array) -> tuple[jax.Array, PyTree]:
        output, carry = network.step(params, timestep, carry)
        action = network.policy.mode(output.policy)
        return action, network.remember(carry, action)

    return act_greedy
