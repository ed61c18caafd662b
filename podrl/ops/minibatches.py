"""Gradients over parts of a batch, for batches that do not fit in memory at once."""

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp

from podrl.config import check
from podrl.types import Metrics, PyTree, Trajectory

LossFn = Callable[[PyTree, Trajectory], tuple[jax.Array, Metrics]]


def split_environments(trajectory: Trajectory, num: int) -> list[Trajectory]:
    """Parts of a trajectory, each with 1/`num` of its environments.

    Part m takes environments m, m + num, m + 2 num, ...: with B sharded over devices in contiguous blocks, every device
    then gives its own share to every part and nothing moves between devices (needs B / devices to divide by `num`).

    Args:
        trajectory: [T, B, ...] leaves, some [B, ...]; B a multiple of `num`.
        num: how many parts.

    Raises:
        ConfigError: if the environments do not divide.
    """
    num_envs = trajectory.reward.shape[1]
    check(
        num_envs % num == 0,
        f"{num_envs} environments do not divide into {num} parts. Make actors.num_envs a multiple of "
        "agent.minibatches * agent.micro_batches.",
    )
    if num == 1:
        return [trajectory]
    return [_take_environments(trajectory, part, num) for part in range(num)]


def accumulate_gradients(
    loss_fn: LossFn, params: PyTree, trajectory: Trajectory, num_micro_batches: int
) -> tuple[tuple[jax.Array, Metrics], PyTree]:
    """Sums losses, metrics and gradients over parts of the environments, in the memory of one part.

    The parts add up to the whole only if `loss_fn` divides by counts of the whole batch and not of its part.

    Args:
        loss_fn: (params, trajectory) -> (loss, metrics).
        params: what to differentiate by.
        trajectory: the whole batch; B a multiple of `num_micro_batches`.
        num_micro_batches: how many parts; 1 takes the batch as it is.

    Returns:
        ((loss, metrics), gradients), as `jax.value_and_grad(loss_fn, has_aux=True)` returns them.
    """
    value_and_grad = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    # Unrolled in Python: XLA's CPU backend runs a convolution inside a loop of its own some 20 times slower.
    first, *others = split_environments(trajectory, num_micro_batches)
    total = value_and_grad(params, first)
    for part in others:
        total = jax.tree.map(jnp.add, total, value_and_grad(params, _after(total[0][0], part)))
    return total


def _after(loss: jax.Array, part: Trajectory) -> Trajectory:
    """`part`, unchanged, but evaluated after `loss`.

    XLA would else work on several parts at once and hold the activations of all. An optimization barrier does not keep
    it from that: it is gone before programs are scheduled. Where the loss is NaN the observations are zeros: the
    update is lost either way.
    """
    ruined = jnp.isnan(loss)
    observation = jax.tree.map(lambda x: jnp.where(ruined, jnp.zeros_like(x), x), part.observation)
    return dataclasses.replace(part, observation=observation)


def _take_environments(trajectory: Trajectory, part: int, num: int) -> Trajectory:
    def take(x: jax.Array, axis: int) -> jax.Array:
        grouped = (*x.shape[:axis], x.shape[axis] // num, num, *x.shape[axis + 1 :])
        return jax.lax.index_in_dim(jnp.reshape(x, grouped), part, axis + 1, keepdims=False)

    return trajectory.map(lambda x: take(x, 1), lambda x: take(x, 0))
