"""Encodes Gymnasium's observation spaces as the one array that networks take.

That is an image [H, W, C] of uint8 or float32, or a vector [D] of float32 or uint8. A uint8 observation that comes
alone stays uint8, and is divided by 255 in the network's first layer.

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

from podrl.config.config import ConfigError, EnvConfig, check, did_you_mean
from podrl.types import EnvSpec

# Longest one-hot vector; each entry costs a row of the network's first layer.
MAX_ONE_HOT = 2**20
_FLATTEN = "env.wrappers=('gymnasium.wrappers:FlattenObservation',)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoding:
    """How raw observations become one array.

    Attributes:
        struct: shape and dtype of one environment's encoded observation.
        encode: (raw observations of B environments) -> [B, *struct.shape] contiguous array; a view where that suffices.
        text: description of the encoding, with the environment's own shapes.
        env_before: keys of `env`, with values that encode as podrl did before it had these keys.
    """

    struct: jax.ShapeDtypeStruct
    encode: Callable[[Any], np.ndarray]
    text: str
    env_before: Mapping[str, str] = dataclasses.field(default_factory=dict)


def make_encoding(space: gymnasium.Space, config: EnvConfig) -> Encoding:
    """Chooses the encoding of a space.

    Discrete values become one-hot vectors; arrays that are no images are flattened. The entries of a dictionary become
    vectors, concatenated in sorted order of their keys; if only one is kept, it is encoded as if it came alone. Empty
    entries add nothing.

    Args:
        space: space of one environment's observation.
        config: config whose `observation_keys` name the entries of a dictionary to keep; empty keeps all.

    Raises:
        ConfigError: if `observation_keys` names an entry that does not exist, or the space has no such encoding.
    """
    keys = config.observation_keys
    if not isinstance(space, spaces.Dict):
        check(not keys, f"env.observation_keys={tuple(keys)} must be empty: the observation is no dictionary.")
        return _alone(space, config)
    for key in keys:
        check(
            key in space.spaces,
            f"env.observation_keys: the observation has no entry {key!r}{did_you_mean(key, space.spaces)} "
            f"Available: {', '.join(sorted(space.spaces))}."
            + (f" Several are written in brackets: ({key})." if "," in key else ""),
        )
    kept = sorted(set(keys) or space.spaces)
    if len(kept) == 1:
        entry = _alone(space[kept[0]], config, kept[0])
        return dataclasses.replace(entry, encode=lambda raw: entry.encode(raw[kept[0]]))
    return _concatenation({key: space[key] for key in kept}, config)


def describe_observation(spec: EnvSpec) -> str:
    """Describes what an agent observes: in the source's words, or else by shapes and dtypes."""
    leaves = jax.tree.leaves(spec.observation)
    return spec.observed or ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves)


def channels_come_first(shape: Sequence[int]) -> bool:
    """Returns whether an image of this shape is read as [C, H, W]; see the module."""
    first, second, third = shape
    if first == second or second == third:
        return first != second
    return 4 * first <= min(second, third)


def _alone(space: gymnasium.Space, config: EnvConfig, key: str = "") -> Encoding:
    """Encodes an observation of one space; `key` is its name in the dictionary that it came in."""
    is_array = isinstance(space, spaces.Box | spaces.MultiBinary)
    rank = len(space.shape or ()) if is_array else 0
    is_pixels = _is_pixels(space, config)
    before = _env_before(space, rank)
    is_uint8 = isinstance(space, spaces.Box) and space.dtype == np.uint8
    if rank == 3 and (is_uint8 or config.channels != "auto"):
        return dataclasses.replace(_image(space, config), env_before=before)
    entry = _vector(space, config, key)
    check(entry.struct.size > 0, f"env.id={config.id!r} has an empty observation {space}; there is nothing to see.")
    if not (is_pixels or (rank == 2 and config.channels != "auto")):
        hint = " (an image with env.channels=last)" if rank == 3 else ""
        return dataclasses.replace(entry, text=entry.text + hint, env_before=before)
    dtype = np.dtype(np.uint8 if is_pixels else np.float32)
    shape = (*(space.shape or ()), 1) if rank == 2 else (entry.struct.size,)
    text = f"image {_sides(space)}, one channel, {_values(is_pixels)}" if rank == 2 else entry.text
    return Encoding(
        struct=jax.ShapeDtypeStruct(shape, dtype),
        encode=lambda raw: np.ascontiguousarray(np.reshape(raw, (len(raw), *shape)), dtype),
        text=text,
        env_before=before,
    )


def _image(space: gymnasium.Space, config: EnvConfig) -> Encoding:
    """Encodes an array of rank 3 as [H, W, C]."""
    is_pixels, shape = _is_pixels(space, config), space.shape or ()
    check(min(shape) > 0, f"env.id={config.id!r} has an empty observation {space}; there is nothing to see.")
    dtype = np.dtype(np.uint8 if is_pixels else np.float32)
    is_first = channels_come_first(shape) if config.channels == "auto" else config.channels == "first"
    text = f"image {_sides(space)}, channels {'first' if is_first else 'last'}, {_values(is_pixels)}"
    if not is_first:
        struct = jax.ShapeDtypeStruct(shape, dtype)
        return Encoding(struct=struct, encode=lambda raw: np.ascontiguousarray(raw, dtype), text=text)
    return Encoding(
        struct=jax.ShapeDtypeStruct((*shape[1:], shape[0]), dtype),
        # With one channel this moves no byte: the transposed view is contiguous already.
        encode=lambda raw: np.ascontiguousarray(np.moveaxis(raw, 1, -1), dtype),
        text=text,
    )


def _vector(space: gymnasium.Space, config: EnvConfig, key: str) -> Encoding:
    """Encodes as float32: discrete values one-hot, arrays flattened, pixels from 0 to 1."""
    if isinstance(space, spaces.Discrete):
        return _one_hot([int(space.start)], [int(space.n)], space, config)
    if isinstance(space, spaces.MultiDiscrete):
        return _one_hot(space.start.ravel().tolist(), space.nvec.ravel().tolist(), space, config)
    if not isinstance(space, spaces.Box | spaces.MultiBinary):
        raise _refusal(space, config, key)
    size, is_pixels = math.prod(space.shape), _is_pixels(space, config)
    text = f"{space.dtype}{list(space.shape)} as a vector of {size}"

    def encode(raw: Any) -> np.ndarray:
        numbers = np.ascontiguousarray(np.reshape(raw, (len(raw), size)), np.float32)
        return numbers / np.float32(255) if is_pixels else numbers

    return Encoding(
        struct=jax.ShapeDtypeStruct((size,), np.float32),
        encode=encode,
        text=f"{text}, {_values(is_pixels)}" if space.dtype == np.uint8 else text,
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


def _concatenation(entries: Mapping[str, gymnasium.Space], config: EnvConfig) -> Encoding:
    """Concatenates the vectors of several entries."""
    encodings = {key: _vector(space, config, key) for key, space in entries.items()}
    parts = {key: encoding for key, encoding in encodings.items() if encoding.struct.size}
    check(bool(parts), f"env.id={config.id!r} has no observation: no entry of its dictionary holds any number.")
    size = sum(encoding.struct.size for encoding in parts.values())
    had_pixels = any(_is_pixels(space, dataclasses.replace(config, uint8="auto")) for space in entries.values())
    return Encoding(
        struct=jax.ShapeDtypeStruct((size,), np.float32),
        encode=lambda raw: np.concatenate([entry.encode(raw[key]) for key, entry in parts.items()], axis=1),
        text=f"a dictionary as one vector of {size} ("
        + "; ".join(f"{key}: {entry.text}" for key, entry in parts.items())
        + "); env.observation_keys takes one entry alone",
        env_before={"uint8": "numbers"} if had_pixels else {},
    )


def _env_before(space: gymnasium.Space, rank: int) -> dict[str, str]:
    """Returns the keys of `env` that encode a space as podrl did before it had `env.channels` and `env.uint8`.

    All uint8 of rank 3 was pixels, with channels first where the first side was shorter than the last, and all other
    uint8 was numbers.
    """
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
        return {}
    is_pixels = _reaches_255(space)
    if rank != 3:
        return {"uint8": "numbers"} if is_pixels else {}
    was_first = space.shape[0] < space.shape[2]
    channels = {"channels": "first" if was_first else "last"}
    return ({} if is_pixels else {"uint8": "pixels"}) | (
        {} if was_first == channels_come_first(space.shape) else channels
    )


def _is_pixels(space: gymnasium.Space, config: EnvConfig) -> bool:
    """Returns whether 255 counts as 1."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
        return False
    return _reaches_255(space) if config.uint8 == "auto" else config.uint8 == "pixels"


def _reaches_255(space: spaces.Box) -> bool:
    return bool(space.high.size) and int(space.high.max()) == 255


def _sides(space: gymnasium.Space) -> str:
    return "x".join(map(str, space.shape or ()))


def _values(is_pixels: bool) -> str:
    return "pixels (255 counts as 1)" if is_pixels else "numbers as they are"


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
