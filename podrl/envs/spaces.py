"""From Gymnasium observation spaces to the arrays that networks take.

A network sees one array per environment: an image [H, W, C] of uint8, or a vector [D] of float32. Values are left as
they are; scaling belongs to the network.
"""

from collections.abc import Callable, Sequence
import dataclasses
import math
from typing import Any

import gymnasium
import jax
import numpy as np

from podrl.config import ConfigError, check, did_you_mean


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
        values = np.arange(space.start, space.start + space.n)
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
