"""Which sequences a batch is made of.

Every group draws its own share of a batch with keys of its own, so the same sequences are drawn on any number of
devices, and the probability of each is known exactly: its share within its group, over the number of groups.

Drawing by priority goes down a tree of sums, made anew for each update, with a uniform number of its own at each level.
A single float32 sum over 10^6 starts would leave some of them without any number that leads to them. Nodes have 32
children: as few as that cost little to compare for each draw. Two levels of 1,000 would cost more than the sums.
Children are far apart in memory, so that a sum is 31 additions of whole vectors, elementwise in one fixed order: it
does not depend on how many groups a device has.

Source: Schaul et al. 2016, Prioritized experience replay, arXiv:1511.05952, section 3.3.
"""

import functools

from flax import struct
import jax
from jax import numpy as jnp

from podrl.replay.shape import RingShape
from podrl.types import PyTree

_CHILDREN = 32


@struct.dataclass(kw_only=True)
class Drawn:
    """Sequences that were drawn, for K batches of N at a time.

    Attributes:
        env: [K, N] int32; the position of the environment in its group. The groups of a device have their shares of a
            batch in the order of its environments.
        slot: [K, N] int32; the start, of `RingShape.starts`.
        probability: [K, N] float32; with which a draw of the batch gives this sequence. 0 if there was none to draw.
        number: [K, N] uint32; the sequence's number in its batch, from 0 to N - 1, which knows groups by their number.
    """

    env: jax.Array
    slot: jax.Array
    probability: jax.Array
    number: jax.Array


def draw_starts(
    shape: RingShape,
    num_batches: int,
    priority: PyTree,
    env_index: jax.Array,
    inserted: jax.Array,
    key: jax.Array,
    fit_unrolls: jax.Array | None = None,
) -> Drawn:
    """Draws the sequences of several batches, with replacement, from the groups of one device.

    Args:
        shape: The ring's numbers.
        num_batches: K, batches.
        priority: [B, starts], `SequenceRing.priority`; `()` draws all live starts alike.
        env_index: [B] uint32, `SequenceRing.env_index`.
        inserted: [] int32, `SequenceRing.inserted`.
        key: A typed PRNG key, the same on all devices; consumed.
        fit_unrolls: [] int32, `SequenceRing.fit_unrolls`. A barred rollout has its starts' priorities 0; without
            priorities what is older is not drawn either. None if there is none.
    """
    group = env_index[:: shape.group_size] // shape.group_size
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, group)
    num = num_batches * shape.draws
    if shape.priority_exponent is None:
        oldest, newest = shape.live(inserted)
        if fit_unrolls is not None:
            oldest = jnp.maximum(oldest, shape.first_unbarred(inserted, fit_unrolls))
        live = jnp.maximum(newest - oldest + 1, 0)
        env, slot, share = jax.vmap(functools.partial(_draw_alike, shape, num, oldest, live))(keys)
    else:
        flat = jnp.reshape(priority, (group.size, shape.group_size * shape.starts))
        index, share = jax.vmap(functools.partial(draw_by_priority, num))(flat, keys)
        env, slot = jnp.divmod(index, shape.starts)
    number = (group * shape.draws)[:, None] + jnp.arange(num, dtype=jnp.uint32) % shape.draws

    def by_batch(x: jax.Array) -> jax.Array:
        """Reorders [groups, K * draws] to [K, groups * draws]."""
        return jnp.swapaxes(x.reshape(group.size, num_batches, shape.draws), 0, 1).reshape(num_batches, -1)

    return Drawn(
        env=by_batch(env), slot=by_batch(slot), probability=by_batch(share / shape.groups), number=by_batch(number)
    )


def draw_by_priority(num: int, priority: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draws with replacement, each index in proportion to its priority; one of priority 0 is never drawn.

    Args:
        num: The number of draws.
        priority: [M] float32, not negative; their sum must be finite.
        key: A typed PRNG key; consumed.

    Returns:
        Indices [num] int32, and the probability of each, [num] float32. Both are 0 if all priorities are 0.
    """
    levels = [_by_parent(priority)]
    while levels[-1].shape[1] > 1:
        levels.append(_by_parent(_sum_by_halves(levels[-1])))
    index, drawn = jnp.zeros(num, jnp.int32), jnp.ones(num)
    for level, uniform in zip(reversed(levels), jax.random.uniform(key, (len(levels), num)), strict=True):
        children = level.at[:, index].get(mode="promise_in_bounds")
        child = _pick(children, uniform)
        drawn = jnp.take_along_axis(children, child[None], 0, mode="promise_in_bounds")[0]
        index = child * level.shape[1] + index
    total = _sum_by_halves(levels[-1])
    return index, jnp.where(drawn > 0, drawn / jnp.where(total > 0, total, 1), 0)


def importance_weights(probability: jax.Array, exponent: float) -> jax.Array:
    """Computes the weights that correct for drawing by priority, divided by the largest of each batch.

    Args:
        probability: [K, N], `Drawn.probability`; the largest weight is sought in all of the N.
        exponent: 0 corrects nothing, 1 everything.

    Returns:
        [K, N] float32, from 0 to 1.

    Source: Schaul et al. 2016, arXiv:1511.05952, section 3.4.
    """
    smallest = jnp.min(probability, axis=-1, keepdims=True)
    return jnp.where(probability > 0, (smallest / probability) ** exponent, 0)


def _draw_alike(
    shape: RingShape, num: int, oldest: jax.Array, live: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws from `live` starts of a group, all alike, the first of them `oldest`.

    Returns:
        Environments, starts and the probability of each, all [num].
    """
    env_key, start_key = jax.random.split(key)
    env = jax.random.randint(env_key, (num,), 0, shape.group_size)
    start = oldest + jax.random.randint(start_key, (num,), 0, jnp.maximum(live, 1))
    share = jnp.where(live > 0, 1 / (jnp.maximum(live, 1) * shape.group_size), 0)
    return env, start % shape.starts, jnp.broadcast_to(share, (num,))


def _by_parent(x: jax.Array) -> jax.Array:
    """Pads values [M] and reshapes them to [32, parents]: those of a column have one parent."""
    return jnp.pad(x, (0, -x.size % _CHILDREN)).reshape(_CHILDREN, -1)


def _pick(weights: jax.Array, uniform: jax.Array) -> jax.Array:
    """Picks one of the weights [W, num] of each column in proportion to them, by a uniform number [num]."""
    sums, distance = weights, 1
    while distance < len(weights):
        sums = sums + jnp.pad(sums[:-distance], ((distance, 0), (0, 0)))
        distance *= 2
    # With rounding a running sum can exceed the last one, so the largest is what the uniform number is a share of.
    total = jnp.max(jnp.where(weights > 0, sums, 0), axis=0)
    return jnp.argmax((sums > uniform * total) & (weights > 0), axis=0).astype(jnp.int32)


def _sum_by_halves(x: jax.Array) -> jax.Array:
    """Sums [W, num] along the first axis, W a power of two, in an order that does not depend on the other."""
    while len(x) > 1:
        x = x[: len(x) // 2] + x[len(x) // 2 :]
    return x[0]
