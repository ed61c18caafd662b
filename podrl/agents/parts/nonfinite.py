"""Detection of updates whose loss or gradient is NaN or infinite, and an agent that skips them."""

import dataclasses

import jax
from jax import numpy as jnp
import numpy as np

from podrl.agents.parts.interface import Agent, Batch
from podrl.types import LearnerState, Metrics, PyTree, Trajectory

CHECKED = ("loss/total", "grad/norm")  # Metrics of every agent; parameters stay finite as long as these are.


class NonFiniteError(RuntimeError):
    """An update's loss or gradient is not finite.

    Attributes:
        update: The update's number, from 1.
    """

    def __init__(self, message: str, update: int) -> None:
        """Creates the error of update number `update`."""
        super().__init__(message)
        self.update = update


def skip_nonfinite(agent: Agent) -> Agent:
    """Returns the agent with updates that are skipped where they are not finite; `grad/skipped` is 1 then, 0 otherwise.

    The state stays unchanged in `learn` if the loss or the gradient is not finite, and in `observe` if the new
    statistics are not. Updates are counted all the same, since every update has a version. An optimizer's own count of
    steps, by which it may decay its learning rate, excludes the skipped updates.
    """

    def observe(state: LearnerState, rollouts: Trajectory) -> LearnerState:
        observed = agent.observe(state, rollouts)
        floats = [x for x in jax.tree.leaves(observed.extra) if jnp.issubdtype(x.dtype, jnp.floating)]
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in floats])) if floats else jnp.asarray(True)
        return _choose(finite, observed, state)

    def learn(state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics, jax.Array | None]:
        learned, metrics, priority = agent.learn(state, batch)
        finite = jnp.all(jnp.stack([jnp.isfinite(metrics[name]) for name in CHECKED]))
        return _choose(finite, learned, state), {**metrics, "grad/skipped": 1.0 - finite}, priority

    return dataclasses.replace(agent, observe=observe, learn=learn)


def _choose(is_new: jax.Array, new: LearnerState, old: LearnerState) -> LearnerState:
    return jax.tree.map(lambda *leaves: jnp.where(is_new, *leaves), new, old)


def check_finite(update: int, metrics: Metrics) -> None:
    """Fetches the checked metrics of an update from the devices.

    Raises:
        NonFiniteError: If one is not finite. The message names the update and the values.
    """
    names = [name for name in CHECKED if name in metrics]
    values = jax.device_get([metrics[name] for name in names])
    if not np.all(np.isfinite(values)):
        found = ", ".join(f"{name} is {float(value):g}" for name, value in zip(names, values, strict=True))
        raise NonFiniteError(f"Update {update} is not finite: {found}", update)


def first_bad_leaf(params: PyTree) -> str | None:
    """Returns the path of the first parameter that holds NaN or infinity; None if all are finite."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not bool(jnp.all(jnp.isfinite(leaf))):
            return jax.tree_util.keystr(path, simple=True, separator="/")
    return None
