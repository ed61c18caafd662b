"""The functions that agents with action values share: acting epsilon-greedily, and how epsilon falls over the run."""

from collections.abc import Callable

import jax
from jax import numpy as jnp

from podrl.agents.parts.actor_critic import make_init, make_initial_carry
from podrl.agents.parts.interface import Agent, Batch
from podrl.agents.parts.optimizing import OptimizerOverRun
from podrl.networks.interface import QNetwork
from podrl.ops.optimizers import share_left
from podrl.ops.q_values import epsilon_greedy, greedy_action
from podrl.types import LearnerState, Metrics, PyTree, Timestep


def make_q_agent(
    network: QNetwork,
    optimizer: OptimizerOverRun,
    epsilon_at: Callable[[jax.Array], jax.Array],
    learn: Callable[[LearnerState, Batch], tuple[LearnerState, Metrics, jax.Array | None]],
) -> Agent:
    """Returns an agent that acts epsilon-greedily by its network's action values; only how it learns is its own.

    Its actors need the network's parameters and `epsilon`. They record the value of the best action, `value` [B].

    Args:
        network: The network of action values.
        optimizer: Makes the first state of the optimizer.
        epsilon_at: (updates done []) -> [] float32; the probability of an action at random in the next update.
        learn: `Agent.learn`.
    """

    def actor_params(state: LearnerState) -> PyTree:
        return {"network": state.params, "epsilon": epsilon_at(state.step)}

    def act(params: PyTree, timestep: Timestep, carry: PyTree, keys: jax.Array) -> tuple[jax.Array, PyTree, PyTree]:
        output, carry = network.step(params["network"], timestep, carry)
        action = epsilon_greedy(keys, output.q_values, params["epsilon"])
        return action, {"value": output.value}, network.remember(carry, action)

    def act_greedy(params: PyTree, timestep: Timestep, carry: PyTree, keys: jax.Array) -> tuple[jax.Array, PyTree]:
        output, carry = network.step(params["network"], timestep, carry)
        action = greedy_action(output.q_values)
        return action, network.remember(carry, action)

    return Agent(
        init=make_init(network, optimizer),
        initial_carry=make_initial_carry(network),
        actor_params=actor_params,
        act=act,
        act_greedy=act_greedy,
        learn=learn,
    )


def fall_linearly(
    start: float, end: float, share: float, *, num_updates: int, ahead: float = 0.0
) -> Callable[[jax.Array], jax.Array]:
    """Returns a function (updates done []) -> [] float32 that goes linearly from `start` to `end`, and stays there.

    Args:
        start: The value before the first update.
        end: The value once `share` of the run is done.
        share: The share of the run, in (0, 1], after which the end is reached.
        num_updates: Number of the run's last update.
        ahead: See `podrl.ops.optimizers.share_left`.
    """

    def at(step: jax.Array) -> jax.Array:
        done = jnp.clip((1 - share_left(step, num_updates, ahead)) / share, 0.0, 1.0)
        return start * (1 - done) + end * done

    return at
