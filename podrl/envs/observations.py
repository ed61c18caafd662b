"""Encodes Gymnasium's observation spaces as what networks take: one array, or a dictionary of a few parts.

An observation of one space becomes one array (`podrl.envs.encodings`). Dictionaries and tuples, nested or not, are
taken apart into entries, each named by its path, such as `camera` or `arm/angles`. Where an entry is an image, each
image stays a part of its own under that name, and the other entries are joined to one vector, the part `vector`.
Without images all entries are joined to one vector, which then is the whole observation.

An entry that says which actions can be taken (`env.action_mask`) becomes a part that encoders do not see.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any, NamedTuple

import gymnasium
from gymnasium import spaces
import jax
import numpy as np

from podrl.actions import ActionSpace, mask_sizes
from podrl.config.config import EnvConfig, check, did_you_mean
from podrl.envs.encodings import Encoding, encode_alone, encode_vector, is_pixels
from podrl.envs.workers.info_mask import ENTRY, FROM_INFO
from podrl.types import ACTION_MASK, VECTOR, EnvSpec


class _Entry(NamedTuple):
    """One space of a dictionary or tuple, nested or not, and the keys and positions that lead to it."""

    space: gymnasium.Space
    keys: tuple[Any, ...]

    def of(self, raw: Any) -> Any:
        """Returns this entry of a batch of raw observations."""
        for key in self.keys:
            raw = raw[key]
        return raw


def make_encoding(space: gymnasium.Space, config: EnvConfig, actions: ActionSpace | None = None) -> Encoding:
    """Chooses the encoding of a space.

    Discrete values become one-hot vectors; arrays that are no images are flattened. Vectors are joined in sorted order
    of their entries; if only one entry is kept, it is encoded as if it came alone. Empty entries add nothing.

    Args:
        space: space of one environment's observation.
        config: config whose `observation_keys` name the entries to keep; empty keeps all. With `parts='joined'` images
            beside other entries are flattened, too. `action_mask` names the mask.
        actions: the environment's actions, which a mask is for; None for none.

    Raises:
        ConfigError: if `observation_keys` or `action_mask` names an entry that does not exist, or the space has no such
            encoding.
    """
    keys, mask = config.observation_keys, config.action_mask
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        check(
            mask in ("none", ENTRY),
            f"env.action_mask={mask!r}: env.id={config.id!r} observes no dictionary, and masks in info are for "
            "env.source=gymnasium.",
        )
        check(not keys, f"env.observation_keys={tuple(keys)} must be empty: the observation is no dictionary.")
        return encode_alone(space, config)
    entries = _entries(space)
    name = ENTRY if mask.startswith(FROM_INFO) else mask
    masks = {path: entry for path, entry in entries.items() if _is_below(path, name)}
    check(
        bool(masks) or mask in ("none", ENTRY),
        f"env.action_mask: the observation has no entry {mask!r}{did_you_mean(mask, entries)} Available: "
        f"{', '.join(entries)}.",
    )
    if not masks or (mask == ENTRY and not _fits_as_mask(masks, entries, keys, actions)):
        return _without_mask(entries, config)
    return _with_mask(_without_mask({path: entries[path] for path in entries if path not in masks}, config), masks)


def _fits_as_mask(
    masks: Mapping[str, _Entry], entries: Mapping[str, _Entry], keys: Sequence[str], actions: ActionSpace | None
) -> bool:
    """Returns whether an entry of the default name is a mask: it fits the actions, and other entries are observed."""
    is_kept = any(_is_below(path, key) for path in masks for key in keys)
    size = sum(math.prod(entry.space.shape or ()) for entry in masks.values())
    return actions is not None and not is_kept and len(masks) < len(entries) and size in mask_sizes(actions)


def _without_mask(entries: Mapping[str, _Entry], config: EnvConfig) -> Encoding:
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
        alone = encode_alone(entry.space, config, name)
        return dataclasses.replace(alone, encode=lambda raw: alone.encode(entry.of(raw)))
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


def _entries(space: gymnasium.Space, keys: tuple[Any, ...] = ()) -> dict[str, _Entry]:
    """Returns the spaces that a dictionary or tuple is made of, by path, in sorted order of keys or by position."""
    if isinstance(space, spaces.Dict):
        below: list[tuple[Any, gymnasium.Space]] = [(key, space[key]) for key in sorted(space.spaces)]
    elif isinstance(space, spaces.Tuple):
        below = list(enumerate(space.spaces))
    else:
        return {"/".join(map(str, keys)): _Entry(space, keys)}
    found: dict[str, _Entry] = {}
    for key, entry in below:
        found |= _entries(entry, (*keys, key))
    return found


def _is_below(path: str, key: str) -> bool:
    return bool(key) and (path == key or path.startswith(f"{key}/"))


def _image(entry: _Entry, config: EnvConfig, name: str) -> Encoding | None:
    """Returns the encoding of an entry that is an image; None for other entries, and for empty ones."""
    space = entry.space
    shape = (space.shape or ()) if isinstance(space, spaces.Box | spaces.MultiBinary) else ()
    if len(shape) not in (2, 3) or 0 in shape:
        return None
    found = encode_alone(space, config, name)
    if len(found.struct.shape) != 3:
        return None
    return dataclasses.replace(found, encode=lambda raw: found.encode(entry.of(raw)))


def _joined(entries: Mapping[str, _Entry], config: EnvConfig) -> Encoding:
    """Joins the vectors of several entries to one."""
    encodings = {name: encode_vector(entry.space, config, name) for name, entry in entries.items()}
    parts = {name: encoding for name, encoding in encodings.items() if encoding.struct.size}
    check(bool(parts), f"env.id={config.id!r} has no observation: no entry of its dictionary holds any number.")
    size = sum(encoding.struct.size for encoding in parts.values())
    return Encoding(
        struct=jax.ShapeDtypeStruct((size,), np.float32),
        encode=lambda raw: np.concatenate([part.encode(entries[name].of(raw)) for name, part in parts.items()], axis=1),
        text=f"one vector of {size} ({_list(parts)})",
        env_before=_env_before(entries, config),
    )


def _parts(
    images: Mapping[str, Encoding],
    vectors: Mapping[str, _Entry],
    config: EnvConfig,
    before: Mapping[str, str],
) -> Encoding:
    """Keeps images as parts of their own beside one vector of all other entries."""
    parts = dict(images)
    for name in (VECTOR, ACTION_MASK):
        check(
            name not in images,
            f"env.id={config.id!r} observes an image {name!r} beside other entries, and podrl has a use of its own for "
            "the name. Rename it with a gymnasium.ObservationWrapper of your own, named in env.wrappers.",
        )
    if any(encode_vector(entry.space, config, name).struct.size for name, entry in vectors.items()):
        parts[VECTOR] = _joined(vectors, config)
    return Encoding(
        struct={name: part.struct for name, part in parts.items()},
        encode=lambda raw: {name: part.encode(raw) for name, part in parts.items()},
        text=f"{len(parts)} parts ({_list(parts)})",
        env_before={"parts": "joined", **before},
    )


def _with_mask(encoding: Encoding, masks: Mapping[str, _Entry]) -> Encoding:
    """Adds the action mask, [L] bool, whose entries may be several arrays, one for each choice."""
    sizes = [math.prod(entry.space.shape or ()) for entry in masks.values()]
    size = sum(sizes)
    alone = "" if isinstance(encoding.struct, dict) else VECTOR if len(encoding.struct.shape) == 1 else "image"

    def encode(raw: Any) -> dict[str, np.ndarray]:
        encoded = encoding.encode(raw)
        flat = [np.reshape(entry.of(raw), (-1, num)) for entry, num in zip(masks.values(), sizes, strict=True)]
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


def _env_before(entries: Mapping[str, _Entry], config: EnvConfig) -> dict[str, str]:
    """Returns the keys of `env` that join entries as podrl did before it had `env.uint8`: all were numbers."""
    as_auto = dataclasses.replace(config, uint8="auto")
    had_pixels = any(is_pixels(entry.space, as_auto) for entry in entries.values())
    return {"uint8": "numbers"} if had_pixels else {}


def _list(parts: Mapping[str, Encoding]) -> str:
    return "; ".join(f"{name}: {part.text}" for name, part in parts.items())
