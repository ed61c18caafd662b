"""A run's state as named plain arrays, as checkpoints hold it, and the check that two states have the same ones.

Typed keys become their words. Environments are one flat dictionary by path, since their states can have any type.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from etils import epath
import jax
from jax import numpy as jnp
import numpy as np

from podrl.config.config import ConfigError, check
from podrl.ops.statistics import Statistics
from podrl.types import FusedState, LearnerState, PyTree


def to_arrays(state: LearnerState) -> dict[str, PyTree]:
    """Returns the state as plain arrays."""
    return jax.tree.map(to_words, _named(state))


def to_array_shapes(shape: LearnerState) -> dict[str, PyTree]:
    """Returns the shapes of `to_arrays`' result: `jax.ShapeDtypeStruct`s, with the shardings of the state."""

    def words(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        found = jax.eval_shape(to_words, leaf)
        return jax.ShapeDtypeStruct(found.shape, found.dtype, sharding=leaf.sharding)

    return jax.tree.map(words, _named(shape))


def from_arrays(arrays: Mapping[str, PyTree], shape: LearnerState) -> LearnerState:
    """The state of this shape that `to_arrays` took apart; what `without_absent` left out of it is made up for.

    Without a replay among the arrays the state has none.
    """
    arrays = {**arrays, "extra": with_remainders(arrays["extra"], shape.extra)}
    if "learner_step" not in arrays:  # One for each update, in an earlier podrl.
        arrays["learner_step"] = _copy(arrays["step"])
    restored: dict[str, PyTree] = {
        name: jax.tree.map(from_words, arrays[name], part)
        for name, part in _named(shape).items()
        if name in arrays or name != "replay"
    }
    if isinstance(shape, FusedState):
        treedef = jax.tree.structure(shape.environments)
        leaves = [restored["environments"][path] for path in _flat(shape.environments)]
        restored["environments"] = jax.tree.unflatten(treedef, leaves)
    return type(shape)(**restored)


def without_absent(expected: PyTree, saved: PyTree) -> PyTree:
    """Leaves out what a checkpoint does not hold among the arrays of its state.

    These are the replay, which an earlier podrl kept there, and of a checkpoint of an earlier podrl the remainders of
    running statistics, the statistics that acted, and the count of calls of `learn`.

    Args:
        expected: arrays or `jax.ShapeDtypeStruct`s.
        saved: Orbax's record of the arrays.

    Returns:
        `expected`, with a dictionary of the rest instead of each `Statistics` whose remainders were not saved.
    """
    found = by_path(saved)
    absent = {"learner_step"} - found.keys()
    if not any(path.startswith("replay/") for path in found):
        absent |= {"replay"}
    expected = {name: part for name, part in expected.items() if name not in absent}
    if isinstance(expected.get("extra"), Mapping) and not any(path.startswith("extra/acting/") for path in found):
        expected["extra"] = {name: part for name, part in expected["extra"].items() if name != "acting"}

    def choose(path: tuple[Any, ...], node: PyTree) -> PyTree:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        is_bare = isinstance(node, Statistics) and f"{name}/remainders/count" not in found
        return {"count": node.count, "mean": node.mean, "variance": node.variance} if is_bare else node

    return jax.tree_util.tree_map_with_path(choose, expected, is_leaf=lambda node: isinstance(node, Statistics))


def with_remainders(arrays: PyTree, shape: PyTree) -> PyTree:
    """The arrays of `LearnerState.extra`, with zeros for remainders, and the newest for the acting, that are absent."""

    def zeros(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if leaf.sharding is None:
            return jnp.zeros(leaf.shape, leaf.dtype)
        # Unlike `jax.device_put` this does not wait for other processes.
        filled = np.zeros(leaf.shape, leaf.dtype)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: filled[index])

    def complete(expected: PyTree, node: PyTree) -> PyTree:
        if not isinstance(expected, Statistics) or isinstance(node, Statistics):
            return node
        return Statistics(**node, remainders=jax.tree.map(zeros, expected.remainders))

    if isinstance(shape, Mapping) and "acting" in shape and "acting" not in arrays:
        arrays = {**arrays, "acting": jax.tree.map(_copy, arrays["observations"])}
    return jax.tree.map(complete, shape, arrays, is_leaf=lambda node: isinstance(node, Statistics))


def _copy(array: jax.Array) -> jax.Array:
    """An array of its own, which can be donated; unlike `jnp.copy` this waits for no other process."""
    copies = [jax.device_put(np.asarray(shard.data), shard.device) for shard in array.addressable_shards]
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, copies)


def _named(state: LearnerState) -> dict[str, PyTree]:
    """Returns the fields by name, with environments flattened."""
    fields: dict[str, Any] = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    if not jax.tree.leaves(state.replay):
        del fields["replay"]
    return fields | ({"environments": _flat(state.environments)} if isinstance(state, FusedState) else {})


def _flat(tree: PyTree) -> dict[str, Any]:
    """Returns leaves by paths such as `environment.ended`, without slashes, which separate nested containers."""
    return {path.replace("/", "."): leaf for path, leaf in by_path(tree).items()}


def to_words(leaf: jax.Array) -> jax.Array:
    """Returns the words of typed keys, and any other array as it is."""
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def from_words(array: jax.Array, shape: jax.ShapeDtypeStruct | jax.Array) -> jax.Array:
    """Returns the array of this shape, whose dtype may be that of typed keys, that `to_words` took apart."""
    return jax.random.wrap_key_data(array) if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key) else array


def by_path(tree: PyTree) -> dict[str, Any]:
    """Returns the leaves of nested containers by paths such as `encoder/Dense_0/kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def check_leaves(checkpoint: epath.Path, saved: PyTree, expected: PyTree, *, partly: bool = False) -> None:
    """Checks that a checkpoint has the leaves that a run expects.

    Args:
        checkpoint: the checkpoint's folder, for messages.
        saved: Orbax's record of the arrays.
        expected: arrays or `jax.ShapeDtypeStruct`s.
        partly: whether the checkpoint may have more.

    Raises:
        ConfigError: if it is of another network or algorithm; the message names the first leaf that differs.
    """
    found, wanted = leaf_shapes(saved), leaf_shapes(expected)
    differing = [
        f"{path} is {found.get(path, 'not there')}, expected {leaf}"
        for path, leaf in wanted.items()
        if found.get(path) != leaf
    ]
    unknown = [f"it has {path}, which this run has not" for path in found if path not in wanted and not partly]
    if differences := differing + unknown:
        check(
            not all(difference.removeprefix("it has ").startswith("environments/") for difference in differences),
            f"Checkpoint {checkpoint.name} in {checkpoint.parent} holds its run's environments, and this run has "
            f"others: {differences[0]}. With topology.placement='anakin' keep actors.num_envs, env and log.info_keys "
            "as they were.",
        )
        check(
            not all(difference.removeprefix("it has ").startswith("replay/") for difference in differences),
            f"Checkpoint {checkpoint.name} in {checkpoint.parent} holds its run's replay, and this run has another: "
            f"{differences[0]}. Keep replay.*, actors.num_envs and actors.unroll_length as they were.",
        )
        raise ConfigError(
            f"Checkpoint {checkpoint.name} in {checkpoint.parent} is of another network or algorithm: {differences[0]}."
        )


def leaf_shapes(tree: PyTree) -> dict[str, str]:
    """Returns dtype and shape of each leaf by its path, which a live state and Orbax's record of it share."""
    return {path: f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in by_path(tree).items()}
