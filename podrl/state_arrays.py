"""A run's state as named plain arrays, as checkpoints hold it, and whether two states have the same ones.

Typed keys become their words. Environments are one flat dictionary, by path, as their states are of any type.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from etils import epath
import jax
from jax import numpy as jnp

from podrl.config import ConfigError
from podrl.types import FusedState, LearnerState, PyTree


def to_arrays(state: LearnerState) -> dict[str, PyTree]:
    """The state as plain arrays."""
    return jax.tree.map(_to_words, _named(state))


def to_array_shapes(shape: LearnerState) -> dict[str, PyTree]:
    """The same of a state's shapes: `jax.ShapeDtypeStruct`s, with their shardings."""

    def words(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        found = jax.eval_shape(_to_words, leaf)
        return jax.ShapeDtypeStruct(found.shape, found.dtype, sharding=leaf.sharding)

    return jax.tree.map(words, _named(shape))


def from_arrays(arrays: Mapping[str, PyTree], shape: LearnerState) -> LearnerState:
    """The state of this shape that `to_arrays` took apart."""
    names = {field.name for field in dataclasses.fields(shape)}
    restored = {name: jax.tree.map(_from_words, arrays[name], _named(shape)[name]) for name in names}
    if isinstance(shape, FusedState):
        treedef = jax.tree.structure(shape.environments)
        leaves = [restored["environments"][path] for path in _flat(shape.environments)]
        restored["environments"] = jax.tree.unflatten(treedef, leaves)
    return type(shape)(**restored)


def _named(state: LearnerState) -> dict[str, PyTree]:
    """The fields by name, with environments made flat."""
    fields: dict[str, Any] = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return fields | ({"environments": _flat(state.environments)} if isinstance(state, FusedState) else {})


def _flat(tree: PyTree) -> dict[str, Any]:
    """Leaves by paths such as `environment.ended`: no slashes, which separate the names of nested containers."""
    return {path.replace("/", "."): leaf for path, leaf in by_path(tree).items()}


def _to_words(leaf: jax.Array) -> jax.Array:
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _from_words(array: jax.Array, shape: jax.ShapeDtypeStruct) -> jax.Array:
    return jax.random.wrap_key_data(array) if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key) else array


def by_path(tree: PyTree) -> dict[str, Any]:
    """The leaves of nested containers by paths such as `encoder/Dense_0/kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def check_leaves(checkpoint: epath.Path, saved: PyTree, expected: PyTree, *, partly: bool = False) -> None:
    """Checks that what is saved has the leaves that a run expects.

    Args:
        checkpoint: its folder, for messages.
        saved: Orbax's record of the arrays.
        expected: arrays or `jax.ShapeDtypeStruct`s.
        partly: whether more may be saved.

    Raises:
        ConfigError: if it is of another network or algorithm; names the first leaf that differs.
    """
    found, wanted = _leaf_shapes(saved), _leaf_shapes(expected)
    differing = [
        f"{path} is {found.get(path, 'not there')}, expected {leaf}"
        for path, leaf in wanted.items()
        if found.get(path) != leaf
    ]
    unknown = [f"it has {path}, which this run has not" for path in found if path not in wanted and not partly]
    if differences := differing + unknown:
        raise ConfigError(
            f"Checkpoint {checkpoint.name} in {checkpoint.parent} is of another network or algorithm: {differences[0]}."
        )


def _leaf_shapes(tree: PyTree) -> dict[str, str]:
    """Dtype and shape of each leaf by its path, which is the same in a live state and in Orbax's record of it."""
    return {path: f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in by_path(tree).items()}
