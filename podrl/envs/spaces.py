"""From Gymnasium's spaces to the arrays that networks take and give.

A network sees one array per environment: an image [H, W, C] of uint8, or a vector [D] of float32. Values are left as
they are; scaling belongs to the network. What it gives is one array too, in podrl's numbers
(`podrl.types.ActionSpace`), which a source translates into the environment's own.
"""

from collections.abc import Callable, Sequence
import dataclasses
import math
from typing import Any

import gymnasium
import jax
import numpy as np

from podrl.config import ConfigError, check, did_you_mean
from podrl.types import ActionSpace, ContinuousActions, DiscreteActions, MultiDiscreteActions

# Bounds beyond this are no bounds: sources write the largest float, or a round number such as 1e10, for none.
_UNBOUNDED = 1e6
# Options of one choice, which each cost a row of the policy's last layer.
_MAX_OPTIONS = 2**16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoding:
    """How raw observations become one array.

    Attributes:
        struct: shape and dtype of one environment's encoded observation.
        encode: (raw observations of B environments) -> [B, *struct.shape] contiguous array; a view where that suffices.
    """

    struct: jax.ShapeDtypeStruct
    encode: Callable[[Any], np.ndarray]


def make_encoding(space: gymnasium.Space, keys: Sequence[str]) -> Encoding:
    """Chooses the encoding of a space.

    uint8 arrays of rank 3 are images, moved to [H, W, C] if they come channels first (shape[0] < shape[2]). Other
    arrays are flattened to float32 and discrete values become one-hot vectors. The entries of a dictionary become
    vectors, concatenated in sorted order of their keys; if one alone is kept, it is encoded as if it came alone.

    Args:
        space: of one environment's observation.
        keys: entries of a dictionary to keep; empty keeps all.

    Raises:
        ConfigError: if `keys` names an entry that is not there, or the space has no such encoding.
    """
    if not isinstance(space, gymnasium.spaces.Dict):
        check(not keys, f"env.observation_keys={tuple(keys)} must be empty: the observation is no dictionary.")
        return _image(space) if _is_image(space) else _vector(space)
    for key in keys:
        check(
            key in space.spaces,
            f"env.observation_keys: the observation has no entry {key!r}{did_you_mean(key, space.spaces)} "
            f"Available: {', '.join(sorted(space.spaces))}.",
        )
    kept = sorted(set(keys) or space.spaces)
    if len(kept) == 1:
        entry = make_encoding(space[kept[0]], ())
        return Encoding(struct=entry.struct, encode=lambda raw: entry.encode(raw[kept[0]]))
    return _concatenation({key: _vector(space[key]) for key in kept})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActionEncoding:
    """How podrl's actions become the environment's.

    Attributes:
        actions: what podrl gives.
        decode: (actions of B environments [B, ...]) -> [B, *space.shape] in the space's own numbers and dtype; the
            array itself where it has these already.
    """

    actions: ActionSpace
    decode: Callable[[np.ndarray], np.ndarray]


def make_action_encoding(space: gymnasium.Space, env_id: str) -> ActionEncoding:
    """Chooses the actions with which podrl moves in a space.

    Floats are flattened; what lies outside [-1, 1] is clipped, and [-1, 1] spread over each entry's range. Entries
    without bounds take every number as it is. Arrays of bounded integers, or of bits, are several choices at once.

    Args:
        space: of one environment's action.
        env_id: for messages.

    Raises:
        ConfigError: if podrl has no such actions.
    """
    if isinstance(space, gymnasium.spaces.Discrete):
        start = int(space.start)
        decode = (lambda action: action + start) if start else (lambda action: action)
        return ActionEncoding(actions=DiscreteActions(int(space.n)), decode=decode)
    if isinstance(space, gymnasium.spaces.MultiDiscrete):
        return _choices(space.start, space.start + space.nvec - 1, space)
    if isinstance(space, gymnasium.spaces.MultiBinary):
        return _choices(np.zeros(space.shape, int), np.ones(space.shape, int), space)
    if isinstance(space, gymnasium.spaces.Box) and space.low.size:
        if np.issubdtype(space.dtype, np.floating):
            return _floats(space)
        low, high = space.low.astype(np.int64), space.high.astype(np.int64)
        width = high.astype(object) - low.astype(object)  # Python's integers do not overflow.
        if np.issubdtype(space.dtype, np.integer) and width.max() < _MAX_OPTIONS:
            return _choices(low, high, space)
    raise ConfigError(
        f"env.id={env_id!r} has actions {space}; podrl gives a number out of n, several such, or an array of floats."
    )


def _choices(low: np.ndarray, high: np.ndarray, space: gymnasium.Space) -> ActionEncoding:
    """Integers from `low` to `high`, both of the space's shape."""
    nums = tuple(int(num) for num in np.ravel(high - low + 1))
    return ActionEncoding(
        actions=MultiDiscreteActions(nums),
        decode=lambda action: (np.reshape(action, (-1, *low.shape)) + low).astype(space.dtype),
    )


def _floats(space: gymnasium.spaces.Box) -> ActionEncoding:
    """Floats, each in its range; one with a single bound takes every number up to that."""
    least, most = space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
    bounded = (np.abs(least) < _UNBOUNDED) & (np.abs(most) < _UNBOUNDED)
    low, high = np.where(bounded, least, -1.0), np.where(bounded, most, 1.0)
    center, half = (low + high) / 2, (high - low) / 2

    def decode(action: np.ndarray) -> np.ndarray:
        moved = np.clip(center + half * action.astype(np.float64), least, most)
        return np.reshape(moved, (-1, *space.shape)).astype(space.dtype)

    return ActionEncoding(actions=ContinuousActions(len(low)), decode=decode)


def _is_image(space: gymnasium.Space) -> bool:
    """Whether the space holds uint8 arrays of rank 3."""
    return isinstance(space, gymnasium.spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3


def _image(space: gymnasium.Space) -> Encoding:
    """uint8 images as [H, W, C]."""
    first, second, last = space.shape or ()
    if first >= last:
        return Encoding(struct=jax.ShapeDtypeStruct((first, second, last), np.uint8), encode=np.ascontiguousarray)
    return Encoding(
        struct=jax.ShapeDtypeStruct((second, last, first), np.uint8),
        # With one channel this moves no byte: the transposed view is contiguous already.
        encode=lambda raw: np.ascontiguousarray(np.moveaxis(raw, 1, -1)),
    )


def _vector(space: gymnasium.Space) -> Encoding:
    """One-hot vectors for discrete values, flattened float32 for arrays."""
    if isinstance(space, gymnasium.spaces.Discrete):
        values = np.arange(int(space.n)) + int(space.start)
        return Encoding(
            struct=jax.ShapeDtypeStruct((len(values),), np.float32),
            encode=lambda raw: (np.reshape(raw, (-1, 1)) == values).astype(np.float32),
        )
    if space.shape is None:
        raise ConfigError(
            f"An observation of type {type(space).__name__} cannot be flattened; choose other entries with "
            "env.observation_keys."
        )
    size = math.prod(space.shape)
    return Encoding(
        struct=jax.ShapeDtypeStruct((size,), np.float32),
        encode=lambda raw: np.ascontiguousarray(np.reshape(raw, (-1, size)), np.float32),
    )


def _concatenation(entries: dict[str, Encoding]) -> Encoding:
    """The vectors of several entries, one after the other."""
    size = sum(entry.struct.shape[0] for entry in entries.values())
    return Encoding(
        struct=jax.ShapeDtypeStruct((size,), np.float32),
        encode=lambda raw: np.concatenate([entry.encode(raw[key]) for key, entry in entries.items()], axis=1),
    )
