"""The labels of a reward that is learned from preferences: a store of fixed size in the learner's state."""

from flax import struct
import jax
from jax import numpy as jnp
import numpy as np

from podrl.config.rewards import RewardsConfig


@struct.dataclass(kw_only=True)
class Labels:
    """A slot for each query of the run, in the order in which they are asked. Whole on every device.

    Attributes:
        features: [M, 2, L, F]; both segments.
        preference: [M] float32; 1 if the second is better, 0 if the first is, 0.5 if they are equal.
        answered: [M] bool; whether the slot has a label. Teachers may skip a query, and a round may find too few
            segments.
        teacher: [M] int32; the number of the teacher who gave it.
        update: [M] int32; the update after which it entered.
        margin: [M] float32; the environment's return of the second segment less that of the first, for figures only.
    """

    features: jax.Array
    preference: jax.Array
    answered: jax.Array
    teacher: jax.Array
    update: jax.Array
    margin: jax.Array


def empty_labels(config: RewardsConfig, num_features: int) -> Labels:
    """Returns a store without a label."""
    num = config.num_rounds * config.queries
    return Labels(
        features=jnp.zeros((num, 2, config.segment_length, num_features)),
        preference=jnp.zeros(num),
        answered=jnp.zeros(num, bool),
        teacher=jnp.zeros(num, jnp.int32),
        update=jnp.zeros(num, jnp.int32),
        margin=jnp.zeros(num),
    )


def write_labels(labels: Labels, new: Labels, round_number: jax.Array) -> Labels:
    """Writes a round's labels into its slots; in place if the store is donated.

    Args:
        labels: The store.
        new: [Q, ...]; the round's.
        round_number: [] int32; from 0.
    """
    start = round_number * len(new.preference)
    return jax.tree.map(lambda into, x: jax.lax.dynamic_update_slice_in_dim(into, x, start, 0), labels, new)


def held_out_slots(num: int, share: float) -> np.ndarray:
    """Returns which of `num` slots no model learns from, [num] bool, spread evenly."""
    passed = np.floor(np.arange(num + 1) * share)
    return passed[1:] > passed[:-1]
