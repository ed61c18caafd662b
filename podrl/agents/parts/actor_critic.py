"""The functions that actor-critic agents share: a fresh state, acting with the network's policy, and its values."""

from collections.abc import Callable

import jax
from jax import numpy as jnp
import optax

from podrl.agents.parts.acting import ActFunction, ActGreedyFunction, make_acting
from podrl.agents.parts.interface import Agent, Batch
from podrl.agents.parts.optimizing import OptimizerOverRun
from podrl.networks.interface import Network, NetworkFunctions, NetworkOutput
from podrl.ops.minibatches import split_environments
from podrl.types import LearnerState, Metrics, PyTree, Trajectory


def make_actor_critic_agent(
    network: Network,
    optimizer: OptimizerOverRun,
    record: Callable[[NetworkOutput], PyTree],
    learn: Callable[[LearnerState, Batch], tuple[LearnerState, Metrics, jax.Array | None]],
) -> Agent:
    """Returns an agent that acts by its network's policy; only how it learns is its own.

    Args:
        network: The actor-critic network.
        optimizer: Makes the first state of the optimizer.
        record: (output of [B, ...]) -> `Trajectory.behaviour`, a pytree of [B, ...].
        learn: `Agent.learn`.
    """
    act, act_greedy = act_by_policy(network, record)
    return Agent(
        init=make_init(network, optimizer),
        initial_carry=make_initial_carry(network),
        actor_params=lambda state: state.params,
        act=act,
        act_greedy=act_greedy,
        learn=learn,
        policies=lambda params, trajectory: network.unroll(params, trajectory)[0].policy,
        divergence=network.policy.kl,
    )


def make_init(
    network: NetworkFunctions, optimizer: optax.GradientTransformation | OptimizerOverRun
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


def make_initial_carry(network: NetworkFunctions) -> Callable[[jax.Array], PyTree]:
    """Returns `Agent.initial_carry` for an agent that starts alike in every environment."""
    return lambda env_index: network.initial_carry(env_index.shape[0])


def act_by_policy(network: Network, record: Callable[[NetworkOutput], PyTree]) -> tuple[ActFunction, ActGreedyFunction]:
    """Returns what samples from the policy, and what takes its mode; both need only the network's parameters.

    Args:
        network: The actor-critic network.
        record: (output of [B, ...]) -> `Trajectory.behaviour`, a pytree of [B, ...].
    """
    return make_acting(
        network,
        network.step,
        sample=lambda params, keys, output: network.policy.sample(keys, output.policy),
        best=lambda output: network.policy.mode(output.policy),
        record=record,
    )


def evaluate_values(
    network: NetworkFunctions,
    params: PyTree,
    trajectory: Trajectory,
    minibatches: int,
    micro_batches: int = 1,
    *,
    last_only: bool = False,
) -> jax.Array:
    """Computes the values of a trajectory [T, B] in parts, whose activations take the memory of one optimizer step's.

    Args:
        network: A network whose outputs have a `value`.
        params: Its parameters.
        trajectory: [T, B].
        minibatches: Parts of the batch in an optimizer step.
        micro_batches: Parts of these, where rows cannot be evaluated on their own.
        last_only: Whether only the last row's values are needed; saves the others where the network allows it.

    Returns:
        [T+1, B] values, or [1, B] of the last row.
    """
    length, num_envs = trajectory.reward.shape
    if network.rows is not None:
        rows = jnp.broadcast_to(jnp.arange(length + 1, dtype=jnp.int32)[:, None], (length + 1, num_envs))
        parts = [] if last_only else jnp.array_split(rows[:-1], min(minibatches, length))
        return jnp.concatenate([network.rows(params, trajectory, part).value for part in (*parts, rows[-1:])])
    parts_of_envs = split_environments(trajectory, minibatches * micro_batches)
    values = [network.unroll(params, part)[0].value for part in parts_of_envs]
    return jnp.stack(values, axis=2).reshape(length + 1, num_envs)
