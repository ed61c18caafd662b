"""Auxiliary losses: what an agent's network learns beside the agent's own loss, from the same batch.

An auxiliary loss is a record of functions of a batch and of networks. An agent with a place for one, such as
`podrl.agents.rainbow`, does four things with it: it keeps the loss's state in `LearnerState.extra`, counts a whole
batch, adds the loss of each part of the batch to its own, and moves the state once the batch is learned.
`NO_AUXILIARY` does nothing, so that such an agent has no branches.
"""

from collections.abc import Callable, Mapping
import dataclasses

import jax
from jax import numpy as jnp

from podrl.types import Metrics, PyTree, Sample, Trajectory

Counts = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Auxiliary:
    """A loss beside an agent's own.

    Attributes:
        init: () -> its first state, small arrays by name, the same on every device; empty if it has none.
        count: (trajectory [T, B] of the whole batch) -> counts by name, [] float32 each, by which sums are divided.
        loss: (params, extra, sample [T, B], counts) -> (loss [], metrics). `LearnerState.extra` has its state among
            the agent's own. The sample is a part of the batch, its trajectory with the network's own carry; loss and
            metrics add up to the batch's over its parts. The loss is differentiated with respect to `params`, which may
            have noise. Reset rows carry no loss.
        move: (extra, metrics of the whole batch, counts) -> the next state of its own.
    """

    init: Callable[[], dict[str, jax.Array]]
    count: Callable[[Trajectory], Counts]
    loss: Callable[[PyTree, PyTree, Sample, Counts], tuple[jax.Array, Metrics]]
    move: Callable[[PyTree, Metrics, Counts], dict[str, jax.Array]] = lambda extra, metrics, counts: {}


NO_AUXILIARY = Auxiliary(
    init=lambda: {},
    count=lambda trajectory: {},
    loss=lambda params, extra, sample, counts: (jnp.zeros(()), {}),
)
