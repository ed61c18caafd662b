"""Statistics of a data set in the state of an agent that learns from it.

`podrl.agents.parts.normalization` makes agents learn them from fresh experience. Offline there is none: they are those
of all rows of the data set, from the first update on.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from podrl.ops.statistics import Statistics
from podrl.types import LearnerState


def freeze_statistics(
    state: LearnerState, *, observations: Statistics | None = None, returns: Statistics | None = None
) -> LearnerState:
    """Returns the first state of a wrapped agent with these statistics in place of those of no rows.

    Args:
        state: The state; each leaf stays laid out as it is.
        observations: Those of `normalize_observations`; None if it does not wrap the agent.
        returns: Those of `normalize_rewards`; None if it does not wrap the agent.
    """
    extra: dict[str, Any] = state.extra
    if observations is not None:
        inner = freeze_statistics(dataclasses.replace(state, extra=extra["agent"]), returns=returns)
        frozen = {name: _placed(extra[name], observations) for name in ("observations", "acting")}
        extra = {**extra, **frozen, "agent": inner.extra}
    elif returns is not None:
        extra = {**extra, "returns": _placed(extra["returns"], returns)}
    return dataclasses.replace(state, extra=extra)


def _placed(before: Statistics, statistics: Statistics) -> Statistics:
    """Returns the statistics on the devices that hold those before."""

    def place(old: jax.Array, new: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(old.shape, old.sharding, lambda index: np.asarray(new[index]))

    return jax.tree.map(place, before, statistics)
