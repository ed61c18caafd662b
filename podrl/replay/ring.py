"""A ring of the newest rows of every environment: how rollouts are written, and sequences read.

Arrays are [B, rows, ...], environment first, so that one split over devices fits all of them. A row is one step, as it
came from the environment: single frames, from which stacks are rebuilt with the rows before a sequence. The newest
rollout's bootstrap row lies where the next rollout's first will be, since they are equal. Where environments were
reopened they are not: the reopened environment's first row takes the bootstrap row's place, so the step before it
counts as a reset and the sequence ends as at a truncation, one step early.

A rollout that is not fit to learn from, such as one with NaN, is written like any other, since its environments
continue from it. No sequence with a row of it is drawn.

The functions here see the environments of one device. `podrl.replay.sharded` maps them over all.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

from flax import struct
import jax
from jax import numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from podrl.replay.shape import RingShape
from podrl.replay.tiles import from_tiles, tile_shape, to_tiles
from podrl.types import PyTree, Trajectory


@struct.dataclass(kw_only=True)
class RingRows:
    """Steps of environments, as in a `Trajectory`; in a ring [B, rows, ...], in a sample time first.

    Attributes:
        observation: Single observations, large ones as tiles (`podrl.replay.tiles`).
        first: bool; the row opens an episode.
        action: The action taken in the row.
        reward: float32; the result of the action.
        discount: float32; the result of the action.
        behaviour: What the acting policy recorded.
        params_version: int32; the learner step of the parameters that acted.
    """

    observation: PyTree
    first: jax.Array
    action: PyTree
    reward: jax.Array
    discount: jax.Array
    behaviour: PyTree
    params_version: PyTree


@struct.dataclass(kw_only=True)
class SequenceRing:
    """The newest experience of B environments. Split over the mesh axis `data`, except for scalars.

    Attributes:
        rows: [B, rows, ...].
        carry: pytree of [B, unrolls, ...]; `Trajectory.carry` of each unroll, inserted without the frame stack, which
            is rebuilt.
        priority: [B, starts] float32 to the power of the exponent; 0 where no sequence can start. `()` if all starts
            are drawn alike.
        peak: [groups] float32; the largest priority so far of each group, which new starts get. `()` without priority.
        env_index: [B] uint32; which of the job's environments these are.
        inserted: [] int32; unrolls inserted, less whole turns of the ring after the first.
        fit_unrolls: [] int32; unrolls inserted since the newest one that is not fit, up to `RingShape.unbarred`.
        key: A typed PRNG key, from which the keys of all draws are split; `()` where the caller has them.
    """

    rows: RingRows
    carry: PyTree
    priority: PyTree
    peak: PyTree
    env_index: jax.Array
    inserted: jax.Array
    fit_unrolls: jax.Array
    key: PyTree = ()


@struct.dataclass(kw_only=True)
class Sequences:
    """Sequences from a ring.

    Attributes:
        trajectory: [L, N]. Its `carry` is what the ring keeps of it. Its `env_index` is each sequence's number in the
            batch, [N] uint32 from 0 to N - 1, which is the same on any number of devices; folded into keys it gives
            every sequence noise of its own, also where a batch has an environment twice. On rows that are no
            transitions the reward is 0 and the discount 1.
        before: [before, N]; the rows before, from which a network makes the rest of its carry: frames and last action.
    """

    trajectory: Trajectory
    before: RingRows


def rows_of_trajectory(trajectory: Trajectory) -> RingRows:
    """Returns the fields of a trajectory that a ring keeps for each row."""
    return RingRows(**{field.name: getattr(trajectory, field.name) for field in dataclasses.fields(RingRows)})


def empty_ring(shape: RingShape, rollout: Trajectory) -> SequenceRing:
    """Returns a ring of all environments without a row.

    Args:
        shape: The ring's numbers.
        rollout: `jax.ShapeDtypeStruct`s of the job's rollout [T, B], its `carry` without a frame stack.
    """
    num_envs, has_priority = shape.num_envs, shape.priority_exponent is not None

    def zeros(x: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.zeros((num_envs, shape.rows, *tile_shape(x.shape[2:])), x.dtype)

    return SequenceRing(
        rows=jax.tree.map(zeros, rows_of_trajectory(rollout)),
        carry=jax.tree.map(lambda x: jnp.zeros((num_envs, shape.unrolls, *x.shape[1:]), x.dtype), rollout.carry),
        priority=jnp.zeros((num_envs, shape.starts)) if has_priority else (),
        peak=jnp.ones(shape.groups) if has_priority else (),
        env_index=jnp.zeros(num_envs, jnp.uint32),
        inserted=jnp.zeros((), jnp.int32),
        fit_unrolls=jnp.full((), shape.unbarred, jnp.int32),
    )


def insert_rollout(
    shape: RingShape, ring: SequenceRing, rollout: Trajectory, fit: jax.Array | bool = True
) -> SequenceRing:
    """Writes a rollout [T, B] over the oldest unroll; in place if the ring is donated.

    Starts whose rows are overwritten end, and those whose last row has come begin with their group's peak priority.
    Where the rollout is not `fit` [], its rows are in no sequence that is drawn.
    """
    unroll = ring.inserted % shape.unrolls
    row = unroll * shape.unroll_length

    def write(into: jax.Array, x: jax.Array) -> jax.Array:
        timed = to_tiles(jnp.swapaxes(x[: shape.unroll_length], 0, 1), 2)
        return _laid_out(jax.lax.dynamic_update_slice_in_dim(into, timed, row, axis=1))

    def write_last(into: jax.Array, x: jax.Array) -> jax.Array:
        last = to_tiles(x[shape.unroll_length], 1)
        return _laid_out(jax.lax.dynamic_update_index_in_dim(into, last, (row + shape.unroll_length) % shape.rows, 1))

    rows = jax.tree.map(write, ring.rows, rows_of_trajectory(rollout))
    shown = {name: jax.tree.map(write_last, getattr(rows, name), getattr(rollout, name)) for name in _BOOTSTRAPPED}
    carry = jax.tree.map(
        lambda into, x: jax.lax.dynamic_update_index_in_dim(into, x, unroll, axis=1), ring.carry, rollout.carry
    )
    inserted = ring.inserted + 1
    inserted = jnp.where(inserted == 2 * shape.unrolls, shape.unrolls, inserted)
    fit_unrolls = jnp.where(fit, jnp.minimum(ring.fit_unrolls + 1, shape.unbarred), 0)
    has_priority = shape.priority_exponent is not None
    return dataclasses.replace(
        ring,
        rows=dataclasses.replace(rows, **shown),
        carry=carry,
        priority=_begin_and_end(shape, ring, inserted, fit_unrolls) if has_priority else (),
        env_index=rollout.env_index,
        inserted=inserted,
        fit_unrolls=fit_unrolls,
    )


def gather_sequences(
    shape: RingShape, rollout: Trajectory, ring: SequenceRing, env: jax.Array, slot: jax.Array, number: jax.Array
) -> Sequences:
    """Reads sequences; see `podrl.replay.sampling.Drawn` for what says which.

    Args:
        shape: The ring's numbers.
        rollout: Shapes of a rollout, as in `empty_ring`.
        ring: The ring.
        env: [N] int32; the environments' positions in their groups.
        slot: [N] int32; the starts.
        number: [N] uint32; the sequences' numbers in the batch.
    """
    env, start = env + group_offsets(shape, env.size), slot * shape.stride

    def take(begin: int, end: int, x: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
        row = (start + jnp.arange(begin, end, dtype=jnp.int32)[:, None]) % shape.rows
        return from_tiles(x.at[env, row].get(mode="promise_in_bounds"), like.shape[2:])

    like = rows_of_trajectory(rollout)
    lengths = {field.name: shape.length + (field.name in _BOOTSTRAPPED) for field in dataclasses.fields(RingRows)}
    # Observations are large: those before are gathered by themselves, as to split them from the others is a copy.
    observed, before = (
        jax.tree.map(functools.partial(take, *place), ring.rows.observation, like.observation)
        for place in ((0, lengths.pop("observation")), (-shape.before, 0))
    )
    taken = {
        name: jax.tree.map(functools.partial(take, -shape.before, num), getattr(ring.rows, name), getattr(like, name))
        for name, num in lengths.items()
    }
    resets = taken["first"][1:]
    taken |= {"reward": jnp.where(resets, 0, taken["reward"]), "discount": jnp.where(resets, 1, taken["discount"])}
    split = shape.before
    unroll = start // shape.unroll_length
    trajectory = Trajectory(
        observation=observed,
        **jax.tree.map(lambda x: x[split:], taken),
        carry=jax.tree.map(lambda x: x.at[env, unroll].get(mode="promise_in_bounds"), ring.carry),
        opening_reward=taken["reward"][split - 1],
        env_index=number,
    )
    return Sequences(
        trajectory=trajectory, before=RingRows(observation=before, **jax.tree.map(lambda x: x[:split], taken))
    )


def group_offsets(shape: RingShape, num: int) -> jax.Array:
    """Returns, for `num` draws of this device's groups in turn, the position of each one's group, [num] int32."""
    return jnp.arange(num, dtype=jnp.int32) // shape.draws * shape.group_size


_BOOTSTRAPPED = ("observation", "first")  # Fields with T + 1 rows.


def _begin_and_end(shape: RingShape, ring: SequenceRing, inserted: jax.Array, fit_unrolls: jax.Array) -> jax.Array:
    """Returns the priorities after an insertion."""
    per_unroll = shape.unroll_length // shape.stride
    newest_row = inserted * per_unroll - 1
    start = newest_row - (newest_row - jnp.arange(shape.starts)) % shape.starts
    oldest, newest = shape.live(inserted)
    is_live = (oldest <= start) & (start <= newest)
    is_new = start > newest - per_unroll
    # A barred rollout also ends the starts whose bootstrap row its first row overwrites.
    is_barred = (fit_unrolls == 0) & (start * shape.stride + shape.length >= (inserted - 1) * shape.unroll_length)
    is_barred |= is_new & (start < shape.first_unbarred(inserted, fit_unrolls))
    peak = jnp.repeat(ring.peak, shape.group_size)[:, None]
    return jnp.where(is_live & ~is_barred, jnp.where(is_new, peak, ring.priority), 0)


def _laid_out(x: jax.Array) -> jax.Array:
    """Keeps tiles in the order of their axes: XLA would choose another in a loop, and copy the ring for each gather."""
    order: Callable[..., Any] = with_layout_constraint
    return order(x, Layout(tuple(range(x.ndim)))) if x.ndim == 4 else x
