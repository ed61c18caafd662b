"""What agents learn from that can learn from a data set."""

import dataclasses

from jax import numpy as jnp

from podrl.agents.parts.interface import Batch
from podrl.types import Sample

UNIFORM, REBALANCED = "data", "rebalanced"  # Names of streams in `Batch.recorded`.


def samples_of(batch: Batch) -> tuple[Sample, Sample]:
    """Returns the sample that a policy is evaluated on, and the one that it is improved on.

    The first is for targets and the losses of values, the second for the loss of the policy. They are the same one,
    unless a data set gives two streams: a uniform one and one rebalanced by return. Rollouts, of an agent that also
    learns from its own experience, are both; their weights, which correct for how a ring draws, are for the errors of
    values alone. The weights of recorded samples are for both.

    Raises:
        ValueError: If the batch has neither.
    """
    if batch.rollouts is not None:
        return batch.rollouts, dataclasses.replace(batch.rollouts, weight=jnp.ones_like(batch.rollouts.weight))
    if UNIFORM not in batch.recorded:
        raise ValueError(f"Found streams {sorted(batch.recorded)}; expected rollouts or a stream {UNIFORM!r}.")
    uniform = batch.recorded[UNIFORM]
    return uniform, batch.recorded.get(REBALANCED, uniform)
