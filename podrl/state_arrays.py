"""A learner's state as named plain arrays, as checkpoints hold it, and whether two states have the same ones."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from etils import epath
import jax

from podrl.config import ConfigError
from podrl.types import LearnerState, PyTree


def to_arrays(state: LearnerState) -> dict[str, PyTree]:
    """The state as plain arrays: a typed key becomes its words."""
    fields: dict[str, Any] = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return fields | {"key": jax.random.key_data(state.key)}


def to_array_shapes(shape: LearnerState) -> dict[str, PyTree]:
    """The same of a state's shapes: `jax.ShapeDtypeStruct`s, with their shardings."""
    fields: dict[str, Any] = {field.name: getattr(shape, field.name) for field in dataclasses.fields(shape)}
    words = jax.eval_shape(jax.random.key_data, shape.key)
    return fields | {"key": jax.ShapeDtypeStruct(words.shape, words.dtype, sharding=shape.key.sharding)}


def from_arrays(arrays: Mapping[str, PyTree]) -> LearnerState:
    """The state that `to_arrays` took apart."""
    return LearnerState(**{**arrays, "key": jax.random.wrap_key_data(arrays["key"])})


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
