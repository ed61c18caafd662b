"""How what was learned from sequences becomes their priorities."""

import jax
from jax import numpy as jnp

from podrl.replay.ring import group_offsets
from podrl.replay.sampling import Drawn
from podrl.replay.shape import RingShape

# Of a priority to the power of its exponent. Below the first a start would end; 10^6 of the second have a finite sum.
_LEAST, _MOST = 1e-12, 1e30


def write_priorities(
    shape: RingShape, priority: jax.Array, peak: jax.Array, drawn: Drawn, new: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Writes the priorities of drawn sequences.

    A sequence that was drawn more than once gets the largest of its new priorities, whatever the order. A new priority
    that is not finite leaves the old one, and where there was nothing to draw nothing is written.

    Args:
        shape: The ring's numbers.
        priority: [B, starts], `SequenceRing.priority`; not read, and written in place if it is donated.
        peak: [groups], `SequenceRing.peak`.
        drawn: [K, N]; what was drawn since the last insertion.
        new: [K, N] float32, not yet to the power of the exponent.

    Returns:
        The next `SequenceRing.priority` and `SequenceRing.peak`.
    """
    is_new = jnp.isfinite(new) & (drawn.probability > 0)
    powers = jnp.clip(jnp.clip(jnp.where(is_new, new, 0), 0) ** (shape.priority_exponent or 0.0), _LEAST, _MOST)
    env = drawn.env + group_offsets(shape, new.shape[1])
    slot = jnp.where(is_new, drawn.slot, shape.starts)  # Out of bounds, where writes are dropped.
    priority = priority.at[env, slot].set(0, mode="drop").at[env, slot].max(powers, mode="drop")
    by_group = jnp.where(is_new, powers, 0).reshape(new.shape[0], -1, shape.draws)
    return priority, jnp.maximum(peak, jnp.max(by_group, axis=(0, 2)))
