"""What turns an agent's action into the environment's own, as plain numbers and lists that JSON holds."""

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np

from podrl.actions import ActionSpace, DiscreteActions, options_of
from podrl.envs.spaces import float_units, make_action_encoding

_LARGEST = 1e300  # Stands for infinity, which JSON does not have.


def describe_units(space: gymnasium.Space, actions: ActionSpace) -> dict[str, Any]:
    """Returns how actions [B, ...] of an agent become those of a space.

    Of one array, `start` is added to choices, and numbers become `clip(center + half * action, low, high)`, all flat;
    the result has the shape `space_shape` and the dtype `space_dtype`. Of a dictionary or tuple `entries` has that of
    each array in it, with the `path` of keys and positions that leads to it, and `columns`, the first of the action's
    columns that are its own and the one after the last. Where the agent makes one choice of all combinations of
    several, `combinations` has their numbers of options: `np.unravel_index` gives the choices.

    Args:
        space: Space of one environment's action.
        actions: The agent's actions in that space.
    """
    own = make_action_encoding(space, "").actions
    is_joint = isinstance(actions, DiscreteActions) and actions != own
    joint = {"combinations": list(options_of(own))} if is_joint else {}
    if not isinstance(space, gymnasium.spaces.Dict | gymnasium.spaces.Tuple):
        return {"space": str(space), **joint, **_units_of_array(space)}
    next_choice, next_number = 0, len(options_of(own))
    entries = []
    for path, entry in _arrays(space, ()):
        units, size = _units_of_array(entry), _size(entry)
        first = next_choice if "start" in units else next_number
        entries.append({"path": list(path), "columns": [first, first + size], **units})
        if "start" in units:
            next_choice += size
        else:
            next_number += size
    return {"space": str(space), **joint, "entries": entries}


def _arrays(space: gymnasium.Space, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], gymnasium.Space]]:
    """Yields the spaces of arrays below a dictionary or tuple in the order of an action's columns."""
    if isinstance(space, gymnasium.spaces.Dict):
        for key, entry in sorted(space.spaces.items()):
            yield from _arrays(entry, (*path, key))
    elif isinstance(space, gymnasium.spaces.Tuple):
        for position, entry in enumerate(space.spaces):
            yield from _arrays(entry, (*path, position))
    else:
        yield path, space


def _size(space: gymnasium.Space) -> int:
    return int(np.prod(space.shape or (), dtype=int))


def _units_of_array(space: Any) -> dict[str, Any]:
    """Returns what `describe_units` says of one array."""
    form = {"space_shape": list(space.shape or ()), "space_dtype": str(space.dtype)}
    if isinstance(space, gymnasium.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        units = {name: np.clip(value, -_LARGEST, _LARGEST).tolist() for name, value in float_units(space).items()}
        return {**form, **units}
    if isinstance(space, gymnasium.spaces.Discrete):
        return {**form, "start": int(space.start)}
    if isinstance(space, gymnasium.spaces.MultiDiscrete):
        return {**form, "start": np.ravel(space.start).tolist()}
    start = np.ravel(space.low).astype(np.int64) if isinstance(space, gymnasium.spaces.Box) else np.zeros(_size(space))
    return {**form, "start": start.astype(int).tolist()}
