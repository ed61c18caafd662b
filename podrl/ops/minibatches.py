"""Minibatches, and gradients accumulated over parts of a batch that does not fit in memory at once.

The learner's devices hold contiguous blocks of environments. Every part takes an equal share of every device, so that
no data moves between devices: one of every `num` consecutive environments, or some rows of each environment. Random
choices depend on the environments' indices in the job (`Trajectory.env_index`) and not on where they run, so that any
number of devices makes the same minibatches.
"""

from collections.abc import Callable
from typing import Any, Protocol, Self, TypeVar

import jax
import jax.numpy as jnp

from podrl.config.config import check
from podrl.types import Metrics, PyTree


class TimeMajor(Protocol):
    """A pytree of arrays [T, B, ...], [T+1, B, ...] or [B, ...], such as `podrl.types.Trajectory`."""

    def map(self, timed: Callable[[Any], Any], untimed: Callable[[Any], Any]) -> Self:
        """Applies `timed` to each leaf that has a time axis, and `untimed` to each that has none."""


AnyBatch = TypeVar("AnyBatch", bound=TimeMajor)
LossFn = Callable[[PyTree, AnyBatch], tuple[jax.Array, Metrics]]


def split_environments(batch: AnyBatch, num: int) -> list[AnyBatch]:
    """Splits a batch into parts, each with 1/`num` of its environments.

    Part m takes environments m, m + num, m + 2 num, ... With B sharded over devices in contiguous blocks, every device
    then gives an equal share to every part and no data moves between devices (B / devices must divide by `num`).

    Args:
        batch: A batch of B environments, a multiple of `num`.
        num: The number of parts.

    Raises:
        ConfigError: If the environments do not divide.
    """
    _check_divides(batch, num)
    if num == 1:
        return [batch]

    def take(x: jax.Array, axis: int, part: int) -> jax.Array:
        return jax.lax.index_in_dim(_group(x, axis, num), part, axis + 1, keepdims=False)

    def take_part(part: int) -> AnyBatch:
        return batch.map(lambda x: take(x, 1, part), lambda x: take(x, 0, part))

    return [take_part(part) for part in range(num)]


def deal_environments(key: jax.Array, env_index: jax.Array, num: int) -> jax.Array:
    """Deals environments to `num` parts at random: each part gets one of every `num` consecutive environments.

    Args:
        key: A typed PRNG key; consumed.
        env_index: [B] uint32, `Trajectory.env_index`; B is a multiple of `num`.
        num: The number of parts.

    Returns:
        [num, B / num] int32: for each part, the position in each group of the environment that it takes, from 0 to
        `num` - 1.
    """
    groups = _group(env_index, 0, num)[:, 0] // num
    return _permutations(key, groups, num)


def take_environments(batch: AnyBatch, members: jax.Array, num: int) -> AnyBatch:
    """Takes one part of a batch, as dealt by `deal_environments`.

    Args:
        batch: A batch of B environments.
        members: [B / num] int32, a row of the result of `deal_environments`.
        num: The number of parts.
    """

    def take(x: jax.Array, axis: int) -> jax.Array:
        groups = _group(x, axis, num)
        index = jnp.expand_dims(members, [d for d in range(groups.ndim) if d != axis])
        return jnp.squeeze(jnp.take_along_axis(groups, index, axis + 1, mode="promise_in_bounds"), axis + 1)

    return batch.map(lambda x: take(x, 1), lambda x: take(x, 0))


def deal_rows(key: jax.Array, env_index: jax.Array, num_rows: int, num: int) -> jax.Array:
    """Deals the rows of each environment to `num` parts of equal size at random.

    Args:
        key: A typed PRNG key; consumed.
        env_index: [B] uint32, `Trajectory.env_index`.
        num_rows: T, a multiple of `num`.
        num: The number of parts.

    Returns:
        [num, T / num, B] int32: for each part, the rows that it takes of each environment.
    """
    check(
        num_rows % num == 0,
        f"actors.unroll_length={num_rows} does not divide into agent.minibatches={num} parts. Make it a multiple.",
    )
    return _permutations(key, env_index, num_rows).reshape(num, num_rows // num, -1)


def take_rows(tree: PyTree, rows: jax.Array) -> PyTree:
    """Takes the rows [R, B] of each leaf [T, B, ...]; returns leaves [R, B, ...]."""

    def take(x: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x, rows.reshape(*rows.shape, *(1,) * (x.ndim - 2)), 0, mode="promise_in_bounds")

    return jax.tree.map(take, tree)


def accumulate_gradients(
    loss_fn: LossFn[AnyBatch], params: PyTree, batch: AnyBatch, num_micro_batches: int, *, rolled: bool = False
) -> tuple[tuple[jax.Array, Metrics], PyTree]:
    """Sums losses, metrics and gradients over parts of the environments, in the memory of one part.

    The sum equals the result of the whole batch only if `loss_fn` divides by the counts of the whole batch, not of its
    part.

    Args:
        loss_fn: (params, part of the batch) -> (loss, metrics).
        params: The parameters to differentiate by.
        batch: The whole batch; B is a multiple of `num_micro_batches`.
        num_micro_batches: The number of parts; 1 takes the batch whole.
        rolled: Whether the parts are a loop of the compiled program, which on several devices reduces the gradients
            once per part. Otherwise each part compiles to a copy of the network, and the gradients are reduced once.

    Returns:
        ((loss, metrics), gradients), as `jax.value_and_grad(loss_fn, has_aux=True)` returns them.
    """
    value_and_grad = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    if rolled and num_micro_batches > 1:
        return _accumulate_in_loop(value_and_grad, params, batch, num_micro_batches)
    first, *others = split_environments(batch, num_micro_batches)
    total = value_and_grad(params, first)
    for part in others:
        total = jax.tree.map(jnp.add, total, value_and_grad(params, _after(total[0][0], part)))
    return total


def _accumulate_in_loop(
    value_and_grad: Callable[[PyTree, AnyBatch], tuple[tuple[jax.Array, Metrics], PyTree]],
    params: PyTree,
    batch: AnyBatch,
    num: int,
) -> tuple[tuple[jax.Array, Metrics], PyTree]:
    """Computes `accumulate_gradients` as a loop over `num` parts."""

    def add_part(total: PyTree, part: AnyBatch) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, value_and_grad(params, part)), None

    # The parts are those of `split_environments`, each contiguous in memory: otherwise XLA's CPU backend would index
    # into the batch wherever a part is read.
    _check_divides(batch, num)
    parts = batch.map(lambda x: jnp.moveaxis(_group(x, 1, num), 2, 0), lambda x: jnp.moveaxis(_group(x, 0, num), 1, 0))
    shapes = jax.eval_shape(value_and_grad, params, jax.tree.map(lambda x: x[0], parts))
    total, _ = jax.lax.scan(add_part, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), parts)
    return total


def _after(loss: jax.Array, part: AnyBatch) -> AnyBatch:
    """Returns `part` with a data dependency on `loss`, so that it is evaluated after `loss`.

    Otherwise XLA would work on several parts at once and hold the activations of all. An optimization barrier does not
    prevent that, because it is removed before programs are scheduled. Where the loss is NaN the part is zeros: the
    update is lost either way.
    """
    ruined = jnp.isnan(loss)
    return jax.tree.map(lambda x: jnp.where(ruined, jnp.zeros_like(x), x), part)


def _check_divides(batch: TimeMajor, num: int) -> None:
    """Raises `ConfigError` unless the environments divide into `num` parts."""
    num_envs = jax.tree.leaves(batch.map(lambda x: x.shape[1], lambda x: x.shape[0]))[0]
    check(
        num_envs % num == 0,
        f"{num_envs} environments do not divide into {num} parts. Make actors.num_envs a multiple of "
        "agent.minibatches * topology.micro_batches.",
    )


def _group(x: jax.Array, axis: int, num: int) -> jax.Array:
    """Reshapes [..., B, ...] to [..., B / num, num, ...], groups of consecutive environments."""
    return jnp.reshape(x, (*x.shape[:axis], x.shape[axis] // num, num, *x.shape[axis + 1 :]))


def _permutations(key: jax.Array, ids: jax.Array, length: int) -> jax.Array:
    """Returns [length, N] int32: for each of `ids` [N] a permutation of 0 to length - 1 that depends on no other id."""

    def permute(index: jax.Array) -> jax.Array:
        return jax.random.permutation(jax.random.fold_in(key, index), length)

    return jax.vmap(permute, out_axes=1)(ids).astype(jnp.int32)
