"""Encodes Gymnasium's observation spaces as what networks take: one array, or a dictionary of a few parts.

An observation of one space becomes one array (`podrl.envs.encodings`). Dictionaries and tuples, nested or not, are
taken apart into entries, each named by its path, such as `camera` or `arm/angles`. Where an entry is an image, each
image stays a part of its own under that name, and the other entries are joined to one vector, the part `vector`.
Without images all entries are joined to one vector, which then is the whole observation.

An entry that says which actions can be taken (`env.action_mask`) becomes a part that encoders do not see.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import gymnasium
from gymnasium import spaces
import jax
import numpy as np

from podrl.config.config import EnvConfig, check, did_you_mean
from podrl.envs.encodings import Encoding, encode_alone, encode_vector, is_pixels
from podrl.envs.workers.info_mask import ENTRY, FROM_INFO
from podrl.types import ACTION_MASK, VECTOR, EnvSpec


def make_encoding(space: gymnasium.Space, config: EnvConfig) -> Encoding:
    """Chooses the encoding of a space.

    Discrete values become one-hot vectors; arrays that are no images are flattened. Vectors are joined in sorted order
    of their entries; if only one entry is kept, it is encoded as if it came alone. Empty entries add nothing.

    Args:
        space: space of one environment's observation.
        config: config whose `observation_keys` name the entries to keep; empty keeps all. With `parts='joined'` images
            beside other entries are flattened, too.

    Raises:
        ConfigError: if `observation_keys` names an entry that does not exist, or the space has no such encoding.
    """
    keys = config.observation_keys
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        check(
            config.action_mask in ("none", ENTRY),
            f"env.action_mask={config.action_mask!r}: env.id={config.id!r} observes no dictionary, and "
            "masks in info are for env.source=gymnasium.",
        )
        check(not keys, f"env.observation_keys={tuple(keys)} must be empty: the observation is no dictionary.")
        return encode_alone(space, config)
    entries = _entries(space)
    key = ENTRY if config.action_mask.startswith(FROM_INFO) else config.action_mask
    masks = {name: entries.pop(name) for name in list(entries) if _is_below(name, key)}
    check(
        bool(masks) or config.action_mask in ("none", ENTRY),
        f"env.action_mask: the observation has no entry {config.action_mask!r}"
        f"{did_you_mean(config.action_mask, entries)} Available: {', '.join(entries)}.",
    )
    encoding = _without_mask(entries, config)
    return _with_mask(encoding, masks) if masks else encoding


def _without_mask(entries: Mapping[str, gymnasium.Space], config: EnvConfig) -> Encoding:
    """Encodes the entries that an agent sees."""
    keys = config.observation_keys
    for key in keys:
        check(
            any(_is_below(name, key) for name in entries),
            f"env.observation_keys: the observation has no entry {key!r}{did_you_mean(key, entries)} "
            f"Available: {', '.join(entries)}." + (f" Several are written in brackets: ({key})." if "," in key else ""),
        )
    kept = {name: entry for name, entry in entries.items() if not keys or any(_is_below(name, key) for key in keys)}
    if len(kept) == 1:
        ((name, entry),) = kept.items()
        alone = encode_alone(entry, config, name)
        return dataclasses.replace(alone, encode=lambda raw: alone.encode(_entry(raw, name)))
    images = {name: found for name, entry in kept.items() if (found := _image(entry, config, name))}
    vectors = {name: entry for name, entry in kept.items() if name not in images}
    if not images or config.parts == "joined":
        joined = _joined(kept, config)
        text = f"a dictionary as {joined.text}; env.observation_keys takes one entry alone"
        before = {"parts": "joined"} if images else {}
        return dataclasses.replace(joined, text=text, env_before={**before, **joined.env_before})
    return _parts(images, vectors, config, _env_before(kept, config))


def describe_observation(spec: EnvSpec) -> str:
    """Describes what an agent observes: in the source's words, or else by shapes and dtypes."""
    leaves = jax.tree.leaves(spec.observation)
    return spec.observed or ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves)


def _entries(space: gymnasium.Space, path: str = "") -> dict[str, gymnasium.Space]:
    """Returns the spaces that a dictionary or tuple is made of, by path, in sorted order of keys or by position."""
    if isinstance(space, spaces.Dict):
        below = {str(key): space[key] for key in sorted(space.spaces)}
    elif isinstance(space, spaces.Tuple):
        below = {str(index): entry for index, entry in enumerate(space.spaces)}
    else:
        return {path: space}
    found: dict[str, gymnasium.Space] = {}
    for key, entry in below.items():
        found |= _entries(entry, f"{path}/{key}" if path else key)
    return found


def _entry(raw: Any, path: str) -> Any:
    """Returns the entry at `path` of a batch of raw observations."""
    for key in path.split("/"):
        raw = raw[int(key)] if isinstance(raw, tuple | list) else raw[key]
    return raw


def _is_below(path: str, key: str) -> bool:
    return bool(key) and (path == key or path.startswith(f"{key}/"))


def _image(space: gymnasium.Space, config: EnvConfig, name: str) -> Encoding | None:
    """Returns the encoding of an entry that is an image; None for other entries, and for empty ones."""
    if (
        not isinstance(space, spaces.Box | spaces.MultiBinary)
        or len(space.shape or ()) not in (2, 3)
        or 0 in space.shape
    ):
        return None
    found = encode_alone(space, config, name)
    return found if len(found.struct.shape) == 3 else None


def _joined(entries: Mapping[str, gymnasium.Space], config: EnvConfig) -> Encoding:
    """Joins the vectors of several entries to one."""
    encodings = {name: encode_vector(space, config, name) for name, space in entries.items()}
    parts = {name: encoding for name, encoding in encodings.items() if encoding.struct.size}
    check(bool(parts), f"env.id={config.id!r} has no observation: no entry of its dictionary holds any number.")
    size = sum(encoding.struct.size for encoding in parts.values())
    return Encoding(
        struct=jax.ShapeDtypeStruct((size,), np.float32),
        encode=lambda raw: np.concatenate([part.encode(_entry(raw, name)) for name, part in parts.items()], axis=1),
        text=f"one vector of {size} ({_list(parts)})",
        env_before=_env_before(entries, config),
    )


def _parts(
    images: Mapping[str, Encoding],
    vectors: Mapping[str, gymnasium.Space],
    config: EnvConfig,
    before: Mapping[str, str],
) -> Encoding:
    """Keeps images as parts of their own beside one vector of all other entries."""
    parts = dict(images)
    if any(encode_vector(space, config, name).struct.size for name, space in vectors.items()):
        check(
            VECTOR not in images,
            f"env.id={config.id!r} observes an image {VECTOR!r} beside other entries, and podrl calls these so. Rename "
            "it with a gymnasium.ObservationWrapper of your own, named in env.wrappers.",
        )
        parts[VECTOR] = _joined(vectors, config)

    def encode(raw: Any) -> dict[str, np.ndarray]:
        images_seen = {name: part.encode(_entry(raw, name)) for name, part in images.items()}
        return images_seen | ({VECTOR: parts[VECTOR].encode(raw)} if VECTOR in parts else {})

    return Encoding(
        struct={name: part.struct for name, part in parts.items()},
        encode=encode,
        text=f"{len(parts)} parts ({_list(parts)})",
        env_before={"parts": "joined", **before},
    )


def _with_mask(encoding: Encoding, masks: Mapping[str, gymnasium.Space]) -> Encoding:
    """Adds the action mask, [L] bool, whose entries may be several arrays, one for each choice."""
    size = sum(math.prod(space.shape or ()) for space in masks.values())
    alone = "" if isinstance(encoding.struct, dict) else VECTOR if len(encoding.struct.shape) == 1 else "image"

    def encode(raw: Any) -> dict[str, np.ndarray]:
        encoded = encoding.encode(raw)
        flat = [np.reshape(_entry(raw, name), (-1, math.prod(space.shape or ()))) for name, space in masks.items()]
        mask = np.concatenate(flat, axis=1).astype(bool)
        return {**({alone: encoded} if alone else encoded), ACTION_MASK: mask}

    return Encoding(
        struct={
            **({alone: encoding.struct} if alone else encoding.struct),
            ACTION_MASK: jax.ShapeDtypeStruct((size,), np.bool_),
        },
        encode=encode,
        text=f"{encoding.text}; a mask of {size} actions",
        mask_size=size,
        env_before={"action_mask": "none", **encoding.env_before},
    )


def _env_before(entries: Mapping[str, gymnasium.Space], config: EnvConfig) -> dict[str, str]:
    """Returns the keys of `env` that join entries as podrl did before it had `env.uint8`: all were numbers."""
    had_pixels = any(is_pixels(space, dataclasses.replace(config, uint8="auto")) for space in entries.values())
    return {"uint8": "numbers"} if had_pixels else {}


def _list(parts: Mapping[str, Encoding]) -> str:
    return "; ".join(f"{name}: {part.text}" for name, part in parts.items())
