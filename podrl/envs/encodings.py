"""Encodings of single Gymnasium spaces: images [H, W, C] of uint8 or float32, and vectors [D] of float32 or uint8.

A uint8 observation that is an image, or comes alone, stays uint8, and is divided by 255 in the network's first layer.

`Encoding.text` says what was guessed, and two keys of `env` override the guess:

- `env.uint8`: uint8 counts as pixels, 255 as 1, if its space reaches 255; other uint8, such as flags, as numbers.
- `env.channels`: uint8 arrays of rank 3 are images. Their channels come first if only their last two sides are equal,
  or if the first side is at most a quarter of each of the others and differs from the second.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
from typing import Any

import gymnasium
from gymnasium import spaces
import jax
import numpy as np

from podrl.config.config import ConfigError, EnvConfig, check
from podrl.types import PyTree

# Longest one-hot vector; each entry costs a row of the network's first layer.
MAX_ONE_HOT = 2**20
_FLATTEN = "env.wrappers=('gymnasium.wrappers:FlattenObservation',)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoding:
    """How raw observations become what networks take.

    Attributes:
        struct: shape and dtype of one environment's encoded observation: one array, or a dictionary of them.
        encode: (raw observations of B environments) -> arrays [B, *shape] like `struct`, contiguous; views where that
            suffices.
        text: description of the encoding, with the environment's own shapes.
        mask_size: how many options the action mask has, the part `podrl.types.ACTION_MASK`; 0 without one.
        env_before: keys of `env`, with values that encode as podrl did before it had these keys.
    """

    struct: PyTree
    encode: Callable[[Any], PyTree]
    text: str
    mask_size: int = 0
    env_before: Mapping[str, str] = dataclasses.field(default_factory=dict)


def channels_come_first(shape: Sequence[int]) -> bool:
    """Returns whether an image of this shape is read as [C, H, W]; see the module."""
    first, second, third = shape
    if first == second or second == third:
        return first != second
    return 4 * first <= min(second, third)


def encode_alone(space: gymnasium.Space, config: EnvConfig, key: str = "") -> Encoding:
    """Encodes an observation of one space; `key` is its name in the dictionary that it came in."""
    is_array = isinstance(space, spaces.Box | spaces.MultiBinary)
    rank = len(space.shape or ()) if is_array else 0
    pixels = is_pixels(space, config)
    before = _env_before(space, rank)
    is_uint8 = isinstance(space, spaces.Box) and space.dtype == np.uint8
    if rank == 3 and (is_uint8 or config.channels != "auto"):
        return dataclasses.replace(_image(space, config), env_before=before)
    entry = encode_vector(space, config, key)
    check(entry.struct.size > 0, f"env.id={config.id!r} has an empty observation {space}; there is nothing to see.")
    if not (pixels or (rank == 2 and config.channels != "auto")):
        hint = " (an image with env.channels=last)" if rank == 3 else ""
        return dataclasses.replace(entry, text=entry.text + hint, env_before=before)
    dtype = np.dtype(np.uint8 if pixels else np.float32)
    shape = (*(space.shape or ()), 1) if rank == 2 else (entry.struct.size,)
    text = f"image {_sides(space)}, one channel, {_values(pixels)}" if rank == 2 else entry.text
    return Encoding(
        struct=jax.ShapeDtypeStruct(shape, dtype),
        encode=lambda raw: np.ascontiguousarray(np.reshape(raw, (len(raw), *shape)), dtype),
        text=text,
        env_before=before,
    )


def _image(space: gymnasium.Space, config: EnvConfig) -> Encoding:
    """Encodes an array of rank 3 as [H, W, C]."""
    pixels, shape = is_pixels(space, config), space.shape or ()
    check(min(shape) > 0, f"env.id={config.id!r} has an empty observation {space}; there is nothing to see.")
    dtype = np.dtype(np.uint8 if pixels else np.float32)
    is_first = channels_come_first(shape) if config.channels == "auto" else config.channels == "first"
    text = f"image {_sides(space)}, channels {'first' if is_first else 'last'}, {_values(pixels)}"
    if not is_first:
        struct = jax.ShapeDtypeStruct(shape, dtype)
        return Encoding(struct=struct, encode=lambda raw: np.ascontiguousarray(raw, dtype), text=text)
    return Encoding(
        struct=jax.ShapeDtypeStruct((*shape[1:], shape[0]), dtype),
        # With one channel this moves no byte: the transposed view is contiguous already.
        encode=lambda raw: np.ascontiguousarray(np.moveaxis(raw, 1, -1), dtype),
        text=text,
    )


def encode_vector(space: gymnasium.Space, config: EnvConfig, key: str) -> Encoding:
    """Encodes as float32: discrete values one-hot, arrays flattened, pixels from 0 to 1."""
    if isinstance(space, spaces.Discrete):
        return _one_hot([int(space.start)], [int(space.n)], space, config)
    if isinstance(space, spaces.MultiDiscrete):
        return _one_hot(space.start.ravel().tolist(), space.nvec.ravel().tolist(), space, config)
    if not isinstance(space, spaces.Box | spaces.MultiBinary):
        raise _refusal(space, config, key)
    size, pixels = math.prod(space.shape), is_pixels(space, config)
    text = f"{space.dtype}{list(space.shape)} as a vector of {size}"

    def encode(raw: Any) -> np.ndarray:
        numbers = np.ascontiguousarray(np.reshape(raw, (len(raw), size)), np.float32)
        return numbers / np.float32(255) if pixels else numbers

    return Encoding(
        struct=jax.ShapeDtypeStruct((size,), np.float32),
        encode=encode,
        text=f"{text}, {_values(pixels)}" if space.dtype == np.uint8 else text,
    )


def _one_hot(starts: Sequence[int], nums: Sequence[int], space: gymnasium.Space, config: EnvConfig) -> Encoding:
    """Encodes choices as one-hot vectors, as Gymnasium's `flatten` does; `nums[i]` values from `starts[i]`."""
    size = sum(nums)
    check(
        size <= MAX_ONE_HOT,
        f"env.id={config.id!r} observes {space}, which is a one-hot vector of {size:,} numbers; podrl takes up to "
        f"{MAX_ONE_HOT:,}. Let the environment give numbers in a Box.",
    )
    entries = np.repeat(np.arange(len(nums)), np.asarray(nums, np.int64))
    values = np.concatenate([np.arange(num) + start for start, num in zip(starts, nums, strict=True)] or [np.arange(0)])

    def encode(raw: Any) -> np.ndarray:
        numbers = np.reshape(raw, (len(raw), len(nums)))
        return np.ascontiguousarray(numbers[:, entries] == values, np.float32)

    return Encoding(
        struct=jax.ShapeDtypeStruct((size,), np.float32),
        encode=encode,
        text=f"{space} as one-hot vectors, {size} numbers",
    )


def _env_before(space: gymnasium.Space, rank: int) -> dict[str, str]:
    """Returns the keys of `env` that encode a space as podrl did before it had `env.channels` and `env.uint8`.

    All uint8 of rank 3 was pixels, with channels first where the first side was shorter than the last, and all other
    uint8 was numbers.
    """
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
        return {}
    pixels = _reaches_255(space)
    if rank != 3:
        return {"uint8": "numbers"} if pixels else {}
    was_first = space.shape[0] < space.shape[2]
    channels = {"channels": "first" if was_first else "last"}
    return ({} if pixels else {"uint8": "pixels"}) | ({} if was_first == channels_come_first(space.shape) else channels)


def is_pixels(space: gymnasium.Space, config: EnvConfig) -> bool:
    """Returns whether 255 counts as 1."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
        return False
    return _reaches_255(space) if config.uint8 == "auto" else config.uint8 == "pixels"


def _reaches_255(space: spaces.Box) -> bool:
    return bool(np.any(space.high == 255))


def _sides(space: gymnasium.Space) -> str:
    return "x".join(map(str, space.shape or ()))


def _values(pixels: bool) -> str:
    return "pixels (255 counts as 1)" if pixels else "numbers as they are"


def _refusal(space: gymnasium.Space, config: EnvConfig, key: str) -> ConfigError:
    """Makes the error for a space that has no encoding, with what to do about it."""
    name = type(space).__name__
    cures = [f"Keep other entries than {key!r} with env.observation_keys"] if key else []
    if config.source == "gymnasium":
        cures.append(
            f"flatten it with {_FLATTEN}"
            if space.is_np_flattenable
            else "make it an array with a gymnasium.ObservationWrapper of your own, named in env.wrappers"
        )
    cure = ", or ".join(cures) or "Use another environment"
    found = f"{name} as {key!r}" if key else name
    return ConfigError(
        f"env.id={config.id!r} observes a {found}; podrl takes arrays, discrete values, and dictionaries of these. "
        f"{cure[0].upper()}{cure[1:]}."
    )
