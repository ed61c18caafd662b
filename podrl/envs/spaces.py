"""From the one array that a policy gives, in podrl's form (`podrl.types.ActionSpace`), to Gymnasium's actions."""

from collections.abc import Callable, Sequence
import dataclasses

import gymnasium
import numpy as np

from podrl.config.config import ConfigError, check
from podrl.types import ActionSpace, ContinuousActions, DiscreteActions, MultiDiscreteActions

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
            array itself where it has these already.
    """

    actions: ActionSpace
    decode: Callable[[np.ndarray], np.ndarray]


def make_action_encoding(space: gymnasium.Space, env_id: str) -> ActionEncoding:
    """Chooses podrl's actions for a space.

    Floats are flattened and clipped to [-1, 1], which is spread over each entry's range. Entries without bounds take
    every number unchanged. Arrays of bounded integers, or of bits, are several choices at once; a single integer is
    one.

    Args:
        space: space of one environment's action.
        env_id: the environment's id, for messages.

    Raises:
        ConfigError: if podrl has no such actions.
    """
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
        f"env.id={env_id!r} has actions {space}; podrl gives a number out of n, several such, or an array of floats; "
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


def _floats(space: gymnasium.spaces.Box) -> ActionEncoding:
    """Encodes floats, each in its range; an entry with a single bound takes every number up to that."""
    least, most = space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
    bounded = (np.abs(least) < _UNBOUNDED) & (np.abs(most) < _UNBOUNDED)
    low, high = np.where(bounded, least, -1.0), np.where(bounded, most, 1.0)
    center, half = (low + high) / 2, (high - low) / 2

    def decode(action: np.ndarray) -> np.ndarray:
        moved = np.clip(center + half * action.astype(np.float64), least, most)
        return np.reshape(moved, (-1, *space.shape)).astype(space.dtype)

    return ActionEncoding(actions=ContinuousActions(len(low)), decode=decode)
