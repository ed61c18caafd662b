"""Reads arrays of an HDF5 file; one that is missing, broken or of another shape is one clear line that names it."""

from collections.abc import Iterator
import contextlib
from typing import Any

import gymnasium
from gymnasium import spaces
import numpy as np

from podrl.config.config import ConfigError, check


def describe_place(group: Any, name: str) -> str:
    """Returns where in which file an array or a group lies, for messages."""
    return f"--import={group.file.filename}: {group.name.rstrip('/')}/{name}"


def read_nested(group: Any, name: str) -> Any:
    """Reads an array, or a group as a dictionary; Minari names entries of tuples `_index_0` and so on.

    Raises:
        ConfigError: If it is missing, cannot be read, or has other things than numbers.
    """
    with hdf5_errors(group, name):
        return _nested(group[name])


def read_array(group: Any, name: str, rows: int | None = None) -> np.ndarray:
    """Reads one number for each step, [N].

    Args:
        group: The group that it is in.
        name: Its name there.
        rows: N; None for any.

    Raises:
        ConfigError: If it is missing, cannot be read, or is no array of N numbers.
    """
    found = read_nested(group, name)
    check(isinstance(found, np.ndarray), f"{describe_place(group, name)} is a group, expected an array.")
    expected = "rows" if rows is None else f"{rows} rows"
    is_fit = found.ndim > 0 and found.size == found.shape[0] and rows in (None, found.shape[0])
    check(is_fit, f"{describe_place(group, name)} has shape {found.shape}, expected {expected} of one number.")
    return found.reshape(-1)


def check_rows_of(space: gymnasium.Space, found: Any, rows: int, place: str) -> None:
    """Checks that what was read is that many rows of a space, nested like it.

    Args:
        space: The space of one row.
        found: Arrays, in dictionaries and tuples.
        rows: How many rows there must be.
        place: Where they lie, for messages.

    Raises:
        ConfigError: If an entry is missing or has another shape.
    """
    if isinstance(space, spaces.Dict | spaces.Tuple):
        there = dict(enumerate(found)) if isinstance(found, tuple) else found
        for key, entry in space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces):
            check(isinstance(there, dict) and key in there, f"{place} has no entry {key!r}, which its space has.")
            check_rows_of(entry, there[key], rows, f"{place}/{key}")
        return
    wanted = (rows, *(space.shape or ()))
    has = f"shape {found.shape}" if isinstance(found, np.ndarray) else "entries"
    check(isinstance(found, np.ndarray) and found.shape == wanted, f"{place} has {has}, expected shape {wanted}.")


@contextlib.contextmanager
def hdf5_errors(group: Any, name: str) -> Iterator[None]:
    """Raises what h5py raises where a file is broken as a `ConfigError`."""
    try:
        yield
    except KeyError:
        raise ConfigError(f"{describe_place(group, name)} is missing, or lacks an entry.") from None
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{describe_place(group, name)} cannot be read ({reason}).") from None


def _nested(found: Any) -> Any:
    if not hasattr(found, "keys"):
        values = np.asarray(found)
        if values.dtype.kind not in "biuf":
            raise ValueError(f"it has {values.dtype}, not numbers")
        return values
    if all(key.startswith("_index_") for key in found):
        return tuple(_nested(found[f"_index_{place}"]) for place in range(len(found)))
    return {key: _nested(value) for key, value in found.items()}
