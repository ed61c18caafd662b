"""Detection of updates whose loss or gradient is NaN or infinite, and an agent that skips them."""

from collections.abc import Callable
import dataclasses

import jax
from jax import numpy as jnp
import numpy as np

from podrl.agents.parts.interface import Fresh
from podrl.types import LearnerState, Metrics, PyTree

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


def skip_nonfinite(
    update: Callable[[LearnerState, Fresh], tuple[LearnerState, Metrics]],
) -> Callable[[LearnerState, Fresh], tuple[LearnerState, Metrics]]:
    """Returns an update that leaves the state as it was where it is not finite; `grad/skipped` is 1 then, 0 otherwise.

    Statistics that the update observed are left as they were, too. Replay keeps what was inserted, and updates are
    counted all the same, since every update has a version. An optimizer's own count of steps, by which it may decay its
    learning rate, excludes the skipped updates.
    """

    def guarded(state: LearnerState, fresh: Fresh) -> tuple[LearnerState, Metrics]:
        new, metrics = update(state, fresh)
        finite = jnp.all(jnp.stack([jnp.isfinite(metrics[name]) for name in CHECKED]))
        before = dataclasses.replace(state, step=new.step, learner_step=new.learner_step, replay=())
        kept = jax.tree.map(lambda *x: jnp.where(finite, *x), dataclasses.replace(new, replay=()), before)
        return dataclasses.replace(kept, replay=new.replay), {**metrics, "grad/skipped": 1.0 - finite}

    return guarded


def check_finite(update: int, metrics: Metrics, whose: str = "") -> None:
    """Fetches the checked metrics of an update from the devices.

    Args:
        update: The update's number, from 1.
        metrics: Its metrics.
        whose: What to add to its number in the message: ` of seed 3`.

    Raises:
        NonFiniteError: If one is not finite. The message names the update and the values.
    """
    names = [name for name in CHECKED if name in metrics]
    values = jax.device_get([metrics[name] for name in names])
    if not np.all(np.isfinite(values)):
        found = ", ".join(f"{name} is {float(value):g}" for name, value in zip(names, values, strict=True))
        raise NonFiniteError(f"Update {update}{whose} is not finite: {found}", update)


def check_extra(update: int, state: LearnerState, whose: str = "") -> None:
    """Checks what a state holds besides parameters, whose loss may stay finite where they do not: see `CHECKED`.

    Statistics of rewards that overflow make every reward zero, for example, and nothing else shows it.

    Args:
        update: The number of the update that left the state.
        state: The state.
        whose: As for `check_finite`.

    Raises:
        RuntimeError: If a number is NaN or infinite. The message names the update and the first place.
    """
    if leaf := first_bad_leaf(state.extra):
        raise RuntimeError(
            f"Update {update}{whose} leaves a state that is not finite, in {leaf}, although its loss is. It is not "
            "saved. If these are statistics, mend or scale what the environment gives; to continue anyway use "
            "on_nonfinite='skip'."
        )


def first_bad_leaf(tree: PyTree) -> str | None:
    """Returns the path of the first array that holds NaN or infinity; None if all are finite."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and not bool(jnp.all(jnp.isfinite(leaf))):
            return jax.tree_util.keystr(path, simple=True, separator="/")
    return None
