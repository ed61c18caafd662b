"""How agents act: a step of a network, actions by what it puts out, and a carry that remembers them."""

from collections.abc import Callable
from typing import Any

import jax

from podrl.networks.interface import NetworkFunctions
from podrl.types import PyTree, Timestep

ActFunction = Callable[[PyTree, Timestep, PyTree, jax.Array], tuple[jax.Array, PyTree, PyTree]]
ActGreedyFunction = Callable[[PyTree, Timestep, PyTree, jax.Array], tuple[jax.Array, PyTree]]


def make_acting(
    network: NetworkFunctions,
    evaluate: Callable[[PyTree, Timestep, PyTree], tuple[Any, PyTree]],
    *,
    sample: Callable[[PyTree, jax.Array, Any], jax.Array],
    best: Callable[[Any], jax.Array],
    record: Callable[[Any], PyTree] = lambda output: {},
) -> tuple[ActFunction, ActGreedyFunction]:
    """Returns `Agent.act`, and `Agent.act_greedy`, which ignores the keys.

    Args:
        network: Remembers the actions in its carry.
        evaluate: (actors' parameters, timestep [B, ...], carry) -> (output, carry after the step).
        sample: (actors' parameters, keys [B], output) -> actions [B, ...].
        best: (output) -> actions [B, ...].
        record: (output) -> `Trajectory.behaviour`, a pytree of [B, ...]; nothing by default.
    """

    def act(params: PyTree, timestep: Timestep, carry: PyTree, keys: jax.Array) -> tuple[jax.Array, PyTree, PyTree]:
        output, carry = evaluate(params, timestep, carry)
        action = sample(params, keys, output)
        return action, record(output), network.remember(carry, action)

    def act_greedy(params: PyTree, timestep: Timestep, carry: PyTree, keys: jax.Array) -> tuple[jax.Array, PyTree]:
        output, carry = evaluate(params, timestep, carry)
        action = best(output)
        return action, network.remember(carry, action)

    return act, act_greedy
