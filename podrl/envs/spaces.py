"""From the one array that a policy gives, in podrl's form (`podrl.actions`), to Gymnasium's actions."""

from collections.abc import Callable, Iterable, Sequence
import dataclasses
from typing import Any

import gymnasium
import numpy as np

from podrl.actions import (
    ActionSpace,
    ContinuousActions,
    DiscreteActions,
    HybridActions,
    MultiDiscreteActions,
    options_of,
)
from podrl.config.config import ConfigError, check

# Larger bounds count as none: sources write the largest float, or a round number such as 1e10, for unbounded.
_UNBOUNDED = 1e6
# Largest numbers of options; each costs a row of the policy's last layer.
_MAX_OPTIONS = 2**16  # For one integer, which may well be meant as a number.
_MAX_LOGITS = 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActionEncoding:
    """How podrl's actions become the environment's.

    Attributes:
        actions: podrl's actions.
        decode: (actions of B environments [B, ...]) -> [B, *space.shape] in the space's own numbers and dtype; the
            array itself where it has these already. A list of B actions where each is a dictionary or tuple.
    """

    actions: ActionSpace
    decode: Callable[[np.ndarray], Any]


def make_action_encoding(space: gymnasium.Space, env_id: str) -> ActionEncoding:
    """Chooses podrl's actions for a space.

    Floats are flattened and clipped to [-1, 1], which is spread over each entry's range. Entries without bounds take
    every number unchanged. Arrays of bounded integers, or of bits, are several choices at once; a single integer is
    one. Dictionaries and tuples, nested or not, are the choices of all their entries, and then all their floats.

    Args:
        space: space of one environment's action.
        env_id: the environment's id, for messages.

    Raises:
        ConfigError: if podrl has no such actions.
    """
    if isinstance(space, gymnasium.spaces.Dict | gymnasium.spaces.Tuple) and len(space.spaces):
        return _composite(space, env_id)
    if isinstance(space, gymnasium.spaces.Discrete):
        start, num = int(space.start), int(space.n)
        _check_options([num], space, env_id)
        is_small = start >= -(2**31) and start + num <= 2**31
        dtype = np.int32 if is_small else np.int64
        decode = (lambda action: np.add(action, start, dtype=dtype)) if start else (lambda action: action)
        return ActionEncoding(actions=DiscreteActions(num), decode=decode)
    if isinstance(space, gymnasium.spaces.MultiDiscrete) and space.nvec.size:
        return _choices(space.start, space.start + space.nvec - 1, space, env_id)
    if isinstance(space, gymnasium.spaces.MultiBinary):
        return _choices(np.zeros(space.shape, int), np.ones(space.shape, int), space, env_id)
    if isinstance(space, gymnasium.spaces.Box) and space.low.size:
        if np.issubdtype(space.dtype, np.floating):
            return _floats(space)
        low, high = space.low.astype(object) * 1, space.high.astype(object) * 1  # Python's integers do not overflow.
        is_integer = np.issubdtype(space.dtype, np.integer) or space.dtype == bool
        if is_integer and np.max(high - low) < _MAX_OPTIONS and np.max(high) <= np.iinfo(np.int64).max:
            return _choices(space.low.astype(np.int64), space.high.astype(np.int64), space, env_id)
    wrapper = "a gymnasium.ActionWrapper of your own, named in env.wrappers, makes one of these of it"
    raise ConfigError(
        f"env.id={env_id!r} has actions {space}; podrl gives a number out of n, several such, an array of floats, and "
        f"dictionaries and tuples of these; "
        f"{wrapper}."
    )


def _choices(low: np.ndarray, high: np.ndarray, space: gymnasium.Space, env_id: str) -> ActionEncoding:
    """Encodes integers from `low` to `high`, both of the space's shape; a scalar is one choice."""
    nums = tuple(int(num) for num in np.ravel(high - low + 1))
    _check_options(nums, space, env_id)
    return ActionEncoding(
        actions=MultiDiscreteActions(nums) if low.shape else DiscreteActions(nums[0]),
        decode=lambda action: (np.reshape(action, (len(action), *low.shape)) + low).astype(space.dtype),
    )


def _check_options(nums: Sequence[int], space: gymnasium.Space, env_id: str) -> None:
    """Raises `ConfigError` for more options than a policy's last layer could have rows."""
    check(
        sum(nums) <= _MAX_LOGITS,
        f"env.id={env_id!r} has actions {space}, which take {sum(nums):,} logits; podrl gives up to {_MAX_LOGITS:,}. "
        "Let the environment take numbers in a Box, or fewer choices.",
    )


def float_units(space: gymnasium.spaces.Box) -> dict[str, np.ndarray]:
    """Returns what gives an action [D] the units of a space of floats: `clip(center + half * action, low, high)`.

    Each entry is in its range; an entry with a single bound takes every number up to that.
    """
    least, most = space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
    bounded = (np.abs(least) < _UNBOUNDED) & (np.abs(most) < _UNBOUNDED)
    low, high = np.where(bounded, least, -1.0), np.where(bounded, most, 1.0)
    return {"center": (low + high) / 2, "half": (high - low) / 2, "low": least, "high": most}


def _floats(space: gymnasium.spaces.Box) -> ActionEncoding:
    """Encodes floats, see `float_units`."""
    units = float_units(space)
    center, half, least, most = units.values()

    def decode(action: np.ndarray) -> np.ndarray:
        moved = np.clip(center + half * action.astype(np.float64), least, most)
        return np.reshape(moved, (-1, *space.shape)).astype(space.dtype)

    return ActionEncoding(actions=ContinuousActions(len(center)), decode=decode)


def _composite(space: gymnasium.spaces.Dict | gymnasium.spaces.Tuple, env_id: str) -> ActionEncoding:
    """Encodes a dictionary or tuple of actions: the choices of all entries, then the floats of all."""
    is_dict = isinstance(space, gymnasium.spaces.Dict)
    spaces: Any = space.spaces
    named = sorted(spaces.items()) if is_dict else enumerate(spaces)  # As observations are, of which a mask may be one.
    entries = {name: make_action_encoding(entry, env_id) for name, entry in named}
    nums, size = _sizes(entries.values())
    choices, floats = 0, len(nums)
    taken: dict[Any, tuple[list[int], ActionEncoding]] = {}
    for name, entry in entries.items():
        own, own_size = _sizes([entry])
        columns = [*range(choices, choices + len(own)), *range(floats, floats + own_size)]
        choices, floats, taken[name] = choices + len(own), floats + own_size, (columns, entry)

    def decode(action: np.ndarray) -> list[Any]:
        decoded = {name: entry.decode(_as(entry.actions, action[:, cols])) for name, (cols, entry) in taken.items()}
        rows = [{name: values[row] for name, values in decoded.items()} for row in range(len(action))]
        return rows if is_dict else [tuple(row.values()) for row in rows]

    if not nums:
        return ActionEncoding(actions=ContinuousActions(size), decode=decode)
    return ActionEncoding(actions=HybridActions(nums, size) if size else MultiDiscreteActions(nums), decode=decode)


def _sizes(encodings: Iterable[ActionEncoding]) -> tuple[tuple[int, ...], int]:
    """Returns the numbers of options of all choices, and how many floats there are."""
    nums: list[int] = []
    size = 0
    for actions in (encoding.actions for encoding in encodings):
        nums += options_of(actions)
        size += getattr(actions, "size", 0)
    return tuple(nums), size


def _as(actions: ActionSpace, columns: np.ndarray) -> np.ndarray:
    """Returns an entry's columns [B, D] in the form of its own actions."""
    struct = actions.struct
    return columns.reshape(len(columns), *struct.shape).astype(struct.dtype)
