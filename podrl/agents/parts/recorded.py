"""What agents learn from that can learn from a data set."""

import dataclasses

from jax import numpy as jnp

from podrl.agents.parts.interface import Batch
from podrl.types import Sample

UNIFORM, REBALANCED = "data", "rebalanced"  # Names of streams in `Batch.recorded`.


def samples_of(batch: Batch, *, clip: bool = False) -> tuple[Sample, Sample]:
    """Returns the sample that a policy is evaluated on, and the one that it is improved on.

    The first is for targets and the losses of values, the second for the loss of the policy. They are the same one,
    unless a data set gives two streams: a uniform one and one rebalanced by return. Rollouts, of an agent that also
    learns from its own experience, are both; their weights, which correct for how a ring draws, are for the errors of
    values alone. The weights of recorded samples are for both.

    Args:
        batch: What an update learns from.
        clip: Whether recorded actions, which are numbers, are clipped to [-1, 1] as the environment did: a policy that
            is not squashed chose others, and critics are to value what was done. Rollouts stay as they are.

    Raises:
        ValueError: If the batch has neither.
    """
    if batch.rollouts is not None:
        return batch.rollouts, dataclasses.replace(batch.rollouts, weight=jnp.ones_like(batch.rollouts.weight))
    if UNIFORM not in batch.recorded:
        raise ValueError(f"Found streams {sorted(batch.recorded)}; expected rollouts or a stream {UNIFORM!r}.")
    recorded = {name: clip_actions(sample) if clip else sample for name, sample in batch.recorded.items()}
    return recorded[UNIFORM], recorded.get(REBALANCED, recorded[UNIFORM])


def clip_actions(sample: Sample) -> Sample:
    """Returns a sample whose actions, which are numbers, are clipped to [-1, 1]."""
    clipped = jnp.clip(sample.trajectory.action, -1, 1)
    return dataclasses.replace(sample, trajectory=dataclasses.replace(sample.trajectory, action=clipped))
