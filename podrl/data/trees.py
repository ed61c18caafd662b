"""Trees of arrays as named columns, and back.

A column's name is its path, such as `observation/camera`; a lone array has the name of its group, `observation`.
Slashes in a dictionary's own keys are escaped. What comes back is made of dictionaries, whatever the containers were.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from podrl.types import PyTree


def to_columns(group: str, tree: PyTree) -> dict[str, Any]:
    """Returns the leaves of a tree by their column's name; none for `()`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join((group, *map(_escape, path))): leaf for path, leaf in leaves}


def from_columns(group: str, columns: Mapping[str, Any]) -> PyTree:
    """Returns the tree of a group's columns: an array, nested dictionaries, or `()` if there are none."""
    if group in columns:
        return columns[group]
    tree: dict[str, Any] = {}
    for name, leaf in columns.items():
        if name.startswith(f"{group}/"):
            *above, last = (part.replace("%2F", "/").replace("%25", "%") for part in name.split("/")[1:])
            place = tree
            for key in above:
                place = place.setdefault(key, {})
            place[last] = leaf
    return tree or ()


def structs_to_json(tree: PyTree) -> dict[str, Any]:
    """Returns shape and dtype of each leaf by its column's name in a group `x`, as plain values."""
    return {
        name: {"shape": list(leaf.shape), "dtype": np.dtype(leaf.dtype).name}
        for name, leaf in to_columns("x", tree).items()
    }


def structs_from_json(values: Mapping[str, Any]) -> PyTree:
    """Returns the tree of `jax.ShapeDtypeStruct`s that `structs_to_json` described."""
    leaves = {
        name: jax.ShapeDtypeStruct(tuple(value["shape"]), np.dtype(value["dtype"])) for name, value in values.items()
    }
    return from_columns("x", leaves)


def describe_structs(tree: PyTree) -> str:
    """Describes dtype and shape of each leaf, such as `float32[50]` or `camera uint8[84, 84], vector float32[3]`."""
    columns = to_columns("x", tree)
    return ", ".join(
        f"{name.removeprefix('x').removeprefix('/')} {np.dtype(leaf.dtype).name}{list(leaf.shape)}".strip()
        for name, leaf in columns.items()
    )


def _escape(key: Any) -> str:
    text = jax.tree_util.keystr((key,), simple=True)
    return text.replace("%", "%25").replace("/", "%2F")
