"""A ring of whole batches: the newest N, each used K times, drawn uniformly from those that have uses left.

Once the ring is full, an update inserts one batch and makes K draws, so every batch is used exactly K times before the
next one takes its place. To that end the last draws of an update take the batch that leaves the ring next, where the
uniform ones have left it uses. Until then there are fewer draws, K/N for each batch in the ring. That leaves half of
the ring's uses to later updates, the number at which uniform draws spread the uses of a batch over its N updates. With
K draws from the first update on, each would spend all uses of the fresh batch, and nothing older would ever be drawn.

Draws are integers, and follow from the run's key, the number of insertions and the uses left: they are the same on any
number of devices.

Source: Luo et al. 2019, arXiv:1912.00167, section 3 (the circular buffer); how many draws an update makes is podrl's,
since learner and workers do not move in step there.
"""

import dataclasses
import functools
from typing import Any

from flax import struct
import jax
from jax import numpy as jnp
import numpy as np

from podrl.config.config import ReplayConfig
from podrl.replay.interface import Draws, Replay
from podrl.types import Trajectory

_NO_INDEX: Any = ()  # For what is done to all leaves but this one, which has no batches.
_NO_DRAW = np.uint32(2**32 - 2)  # Folded into the learner's key for the ring's: no user of that key splits it so often.


@struct.dataclass(kw_only=True)
class RingCounts:
    """What is whole on every device.

    Attributes:
        inserted: [] int32; batches inserted so far.
        left: [N] int32; uses left of each batch.
        key: A typed PRNG key that the keys of all updates' draws are folded from.
    """

    inserted: jax.Array
    left: jax.Array
    key: jax.Array


@struct.dataclass(kw_only=True)
class BatchRing:
    """N batches of raw rollouts.

    Attributes:
        batches: Leaves [B, N, T, ...], [B, N, T+1, ...] or [B, N, ...], but `env_index` [B]: a run's batches have their
            environments in one order.
        counts: The counts of batches and uses.
    """

    batches: Trajectory
    counts: RingCounts


def make_batch_replay(config: ReplayConfig, rollouts: Trajectory) -> Replay:
    """A replay of whole batches.

    Args:
        config: Says N and K.
        rollouts: Shapes of the joined rollouts of an update, [T, B].
    """
    return Replay(
        init=functools.partial(make_batch_ring, rollouts, config.batches),
        insert=functools.partial(insert_batch, uses=config.uses),
        draw=functools.partial(draw_batches, uses=config.uses),
        gather=gather_batch,
        size=num_batches,
    )


def make_batch_ring(rollouts: Trajectory, num_batches: int, key: jax.Array) -> BatchRing:
    """An empty ring.

    Args:
        rollouts: Shapes of the batches, [T, B].
        num_batches: N.
        key: The learner's key.
    """

    def empty(x: jax.ShapeDtypeStruct, timed: bool) -> jax.Array:
        num_envs, rows = (x.shape[1], x.shape[:1]) if timed else (x.shape[0], ())
        return jnp.zeros((num_envs, num_batches, *rows, *x.shape[1 + timed :]), x.dtype)

    batches = rollouts.map(lambda x: empty(x, True), lambda x: empty(x, False))
    counts = RingCounts(
        inserted=jnp.zeros((), jnp.int32),
        left=jnp.zeros(num_batches, jnp.int32),
        key=jax.random.fold_in(key, _NO_DRAW),
    )
    env_index = jnp.zeros(rollouts.env_index.shape, rollouts.env_index.dtype)
    return BatchRing(batches=dataclasses.replace(batches, env_index=env_index), counts=counts)


def insert_batch(ring: BatchRing, rollouts: Trajectory, fit: jax.Array | bool = True, *, uses: int) -> BatchRing:
    """Overwrites the oldest batch with a new one, [T, B], which has all its uses left; none if it is not `fit` []."""
    counts = ring.counts
    slot = counts.inserted % counts.left.size

    def write(stored: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(stored, x, slot, axis=1)

    laid_out = _by_environment(rollouts)
    batches = jax.tree.map(write, *(dataclasses.replace(x, env_index=_NO_INDEX) for x in (ring.batches, laid_out)))
    return BatchRing(
        batches=dataclasses.replace(batches, env_index=rollouts.env_index),
        counts=dataclasses.replace(
            counts, inserted=counts.inserted + 1, left=counts.left.at[slot].set(jnp.where(fit, uses, 0))
        ),
    )


def draw_batches(ring: BatchRing, *, uses: int) -> tuple[BatchRing, Draws]:
    """Draws the batches of one update, after its insertion; returns the ring with the uses that are left."""
    counts, num = ring.counts, ring.counts.left.size
    is_full, next_out = counts.inserted >= num, counts.inserted % num
    draws = jnp.where(is_full, uses, _draws_while_filling(counts.inserted, num, uses))
    keys = jax.random.split(jax.random.fold_in(counts.key, counts.inserted), uses)

    def draw(left: jax.Array, number: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        nth = jax.random.randint(keys[number], (), 0, jnp.sum(left > 0))
        uniform = jnp.argmax(jnp.cumsum(left > 0) > nth)
        must = is_full & (left[next_out] >= draws - number)
        slot = jnp.where(must, next_out, uniform).astype(jnp.int32)
        used = (number < draws) & jnp.any(left > 0)  # Batches that are not fit leave fewer.
        return left.at[slot].add(-used.astype(jnp.int32)), (slot, used)

    left, (slots, used) = jax.lax.scan(draw, counts.left, jnp.arange(uses))
    age = (counts.inserted - 1 - slots) % num
    return dataclasses.replace(ring, counts=dataclasses.replace(counts, left=left)), Draws(
        place=slots, used=used, age=age
    )


def gather_batch(ring: BatchRing, slot: jax.Array) -> Trajectory:
    """Returns the batch [T, B] of one place of the ring, as it was inserted."""

    def read(x: jax.Array) -> jax.Array:
        return jax.lax.dynamic_index_in_dim(x, slot, axis=1, keepdims=False)

    batches = jax.tree.map(read, dataclasses.replace(ring.batches, env_index=_NO_INDEX))
    batch = batches.map(lambda x: jnp.swapaxes(x, 0, 1), lambda x: x)
    return dataclasses.replace(batch, env_index=ring.batches.env_index)


def num_batches(ring: BatchRing) -> jax.Array:
    """Returns how many batches are in the ring, [] int32."""
    return jnp.minimum(ring.counts.inserted, ring.counts.left.size)


def _by_environment(rollouts: Trajectory) -> Trajectory:
    """Returns rollouts with leaves [B, T, ...]."""
    return rollouts.map(lambda x: jnp.swapaxes(x, 0, 1), lambda x: x)


def _draws_while_filling(inserted: jax.Array, num_batches: int, uses: int) -> jax.Array:
    """Returns the draws of the update that inserted batch number `inserted`, from 1: about K/N for each in the ring."""

    def until(n: jax.Array) -> jax.Array:  # K/N (1 + ... + n), rounded up.
        return -(-uses * (n * (n + 1) // 2) // num_batches)

    filled = jnp.minimum(inserted, num_batches)
    return jnp.maximum(until(filled) - until(filled - 1), 1)
