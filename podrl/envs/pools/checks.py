"""Checks of what pools return, which may be a user's own, and their end."""

from typing import Any

from absl import logging
import jax

from podrl.envs.source import Pool
from podrl.runtime.process_exit import describe_error
from podrl.types import Timestep


def check_timestep(timestep: Timestep, expected: Timestep, pool: Pool) -> None:
    """Checks a timestep from a pool, which may be a user's; costs a few microseconds.

    Args:
        timestep: the timestep of [B].
        expected: its shapes and dtypes.
        pool: the pool that returned it.

    Raises:
        ValueError: if they differ; the message names the first array that does.
    """
    tree: Any = jax.tree.structure(expected)
    if tree == jax.tree.structure(timestep) and all(
        map(_is_alike, jax.tree.leaves(timestep), jax.tree.leaves(expected))
    ):
        return
    wanted, found = _describe(expected), _describe(timestep)
    name = next((name for name in [*wanted, *found] if wanted.get(name) != found.get(name)), "another structure")
    raise ValueError(
        f"{_name(pool)} returned {name} as {found.get(name, 'nothing')}; expected "
        f"{wanted.get(name, 'nothing')}. A source's pools must return what its make_spec describes, with a row for "
        "each environment, and float32 reward and discount, and bool first."
    )


def close_pool(pool: Pool) -> None:
    """Closes a pool that is no longer needed; an error in it is logged, as nothing depends on it."""
    try:
        pool.close()
    except Exception as error:  # noqa: BLE001 (a pool may be a user's)
        logging.warning("%s failed in close: %s. The run continues.", _name(pool), describe_error(error))


def _name(pool: Pool) -> str:
    return f"{type(pool).__module__}.{type(pool).__name__}"


def _is_alike(found: Any, expected: jax.ShapeDtypeStruct) -> bool:
    """Returns whether `found` is an array of this shape and dtype."""
    return getattr(found, "shape", None) == expected.shape and found.dtype == expected.dtype


def _describe(timestep: Timestep) -> dict[str, str]:
    """Returns dtype and shape of each array by its path; the type of leaves that are no arrays."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            f"{leaf.dtype}{list(leaf.shape)}" if hasattr(leaf, "shape") else type(leaf).__name__
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(timestep)
    }
