"""The duals in an agent's state: `LearnerState.extra["duals"]`, and `extra["dual_optimizer"]`, their optimizer's state.

`podrl.ops.duals` says what they are.
"""

from collections.abc import Callable
import dataclasses

import jax

from podrl.agents.parts.interface import Agent
from podrl.agents.parts.optimizing import OptimizerOverRun
from podrl.ops.duals import project_duals
from podrl.types import LearnerState, Metrics, PyTree


def with_duals(agent: Agent, optimizer: OptimizerOverRun, first_duals: Callable[[], PyTree]) -> Agent:
    """Returns the agent with first duals in its state; each of their leaves is an array of its own."""

    def init(key: jax.Array) -> LearnerState:
        state, duals = agent.init(key), first_duals()
        extra = {**(state.extra or {}), "duals": duals, "dual_optimizer": optimizer.init(duals)}
        return dataclasses.replace(state, extra=extra)

    return dataclasses.replace(agent, init=init)


def take_dual_step(
    optimizer: OptimizerOverRun, state: LearnerState, loss: Callable[[PyTree], tuple[jax.Array, Metrics]]
) -> tuple[LearnerState, Metrics]:
    """Takes one optimizer step of the duals, and projects them.

    Args:
        optimizer: Their optimizer.
        state: The state.
        loss: (duals) -> (loss, metrics).

    Returns:
        The state, and the metrics of the loss.
    """
    duals = state.extra["duals"]
    grads, metrics = jax.grad(loss, has_aux=True)(duals)
    moved, optimizer_state = optimizer.move(state.step, duals, state.extra["dual_optimizer"], grads)
    extra = {**state.extra, "duals": project_duals(moved), "dual_optimizer": optimizer_state}
    return dataclasses.replace(state, extra=extra), metrics
