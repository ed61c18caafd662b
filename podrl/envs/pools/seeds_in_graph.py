"""Environments of several seeds inside one compiled program, stepped as one batch."""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
from jax import numpy as jnp

from podrl.envs.source import JaxEnvironment
from podrl.types import PyTree


def join_seeds(environment: JaxEnvironment) -> JaxEnvironment:
    """Returns environments that `jax.vmap` over n seeds steps as one batch of n * B, not as n batches.

    Every environment has its own keys and state, so the result is the same. But XLA's CPU backend takes many times as
    long for environments that write to arrays by index, as MinAtar's do, once they are mapped over two axes.
    """
    with_info = environment.step_with_info
    return JaxEnvironment(
        init=_joined(environment.init),
        step=_joined(environment.step),
        step_with_info=_joined(with_info) if with_info else None,
    )


def _joined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function of trees of [B, ...] that maps over another axis by joining it with theirs."""
    joined = jax.custom_batching.custom_vmap(function)

    @joined.def_vmap
    def over_seeds(axis_size: int, in_batched: Sequence[PyTree], *arguments: PyTree) -> tuple[PyTree, PyTree]:
        widened = jax.tree.map(functools.partial(_widen, axis_size), tuple(arguments), tuple(in_batched))
        merged = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), widened)
        results = joined(*merged)
        split = jax.tree.map(lambda x: x.reshape(axis_size, -1, *x.shape[1:]), results)
        return split, jax.tree.map(lambda _: True, split)

    mapped: Callable[..., Any] = joined
    return mapped


def _widen(axis_size: int, array: jax.Array, is_batched: bool) -> jax.Array:
    return array if is_batched else jnp.broadcast_to(array, (axis_size, *array.shape))
