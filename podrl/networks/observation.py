"""From an observation to features: the encoders that a config describes, and which observations they can take."""

from collections.abc import Callable, Mapping
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from podrl.actions import num_logits
from podrl.config.config import ConfigError, NetworkConfig, check, did_you_mean
from podrl.networks.encoders import (
    DRQ_MIN_SIZE,
    MINATAR_MIN_SIZE,
    MLP,
    NATURE_MIN_SIZE,
    DrQCNN,
    ImpalaResNet,
    MinAtarCNN,
    NatureCNN,
)
from podrl.networks.own_encoder import check_own_encoder, make_own_encoder
from podrl.networks.parts import PartsEncoder, action_mask, is_image, module_name, seen
from podrl.types import EnvSpec, PyTree

_MIN_IMAGE_SIZE = {"resnet": 1, "nature": NATURE_MIN_SIZE, "minatar": MINATAR_MIN_SIZE, "drq": DRQ_MIN_SIZE}
_ENCODERS = (*_MIN_IMAGE_SIZE, "mlp")


def make_encoder(
    config: NetworkConfig, spec: EnvSpec, *, layers_are_split: bool, normalizes: bool = False
) -> nn.Module:
    """Returns the encoder of an environment's observations.

    Args:
        config: The `network` section, which `check_observation` has checked.
        spec: The spec of the environment.
        layers_are_split: Whether the channels of its layers are split over devices.
        normalizes: Whether there is a layer normalisation before each activation function; an encoder of the user's own
            is as it is.
    """
    if config.has_own_encoder:
        return make_own_encoder(config)
    make = functools.partial(_make_encoder, config, layers_are_split=layers_are_split, normalizes=normalizes)
    if not isinstance(seen(spec.observation), Mapping):
        return make(config.encoder)
    kinds = encoders_of_parts(config, spec)
    images = {module_name(name): make(kind) for name, kind in kinds.items() if kind in _MIN_IMAGE_SIZE}
    dtype: DTypeLike = jnp.dtype(config.compute_dtype)
    return PartsEncoder(images=images, others=make("mlp"), dtype=dtype, normalizes=normalizes)


def encoders_of_parts(config: NetworkConfig, spec: EnvSpec) -> dict[str, str]:
    """Returns the kind of encoder of each part of an observation; empty if one encoder sees all of it."""
    parts = seen(spec.observation)
    if not isinstance(parts, Mapping) or config.has_own_encoder:
        return {}
    kinds = {name: config.encoder if is_image(part) else "mlp" for name, part in parts.items()}
    return kinds | dict(map(_parse, config.parts))


def joins_all_parts(config: NetworkConfig, spec: EnvSpec) -> bool:
    """Returns whether an observation has parts, and an MLP takes them all: then they may as well come as one vector."""
    kinds = encoders_of_parts(config, spec)
    return bool(kinds) and set(kinds.values()) == {"mlp"} and not config.parts


def is_vector(config: NetworkConfig, spec: EnvSpec) -> bool:
    """Returns whether an MLP sees the whole observation, so that one behind it needs no encoder."""
    return config.encoder == "mlp" and not isinstance(seen(spec.observation), Mapping)


def encode(encoder: Callable[[PyTree], jax.Array], stacked: PyTree, last: jax.Array | None) -> jax.Array:
    """Computes features [B, T, F] in float32, joined with `last`; the encoder sees a single axis of rows."""
    leading = jax.tree.leaves(stacked)[0].shape[:2]
    features = encoder(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), stacked)).astype(jnp.float32)
    features = features.reshape(*leading, -1)
    return features if last is None else jnp.concatenate([features, last], axis=-1)


def check_observation(config: NetworkConfig, spec: EnvSpec) -> None:
    """Raises ConfigError if the encoders cannot take the environment's observations."""
    observation = seen(spec.observation)
    _check_source(spec, observation)
    _check_parts(config, spec, observation)
    if config.has_own_encoder:
        check_own_encoder(config, spec)
        return
    if isinstance(observation, Mapping):
        for name, kind in encoders_of_parts(config, spec).items():
            _check_image(kind, observation[name], spec, f" as {name!r}", f"network.parts=('{name}: mlp',)")
        return
    if config.frame_stack > 1 and not observation.shape:
        raise ConfigError(
            f"network.frame_stack={config.frame_stack} needs observations with at least one axis; env.id={spec.id!r} "
            "gives a scalar. Use network.frame_stack=1."
        )
    _check_image(config.encoder, observation, spec, "", "network.encoder='mlp'")


def _make_encoder(config: NetworkConfig, kind: str, *, layers_are_split: bool, normalizes: bool) -> nn.Module:
    dtype: DTypeLike = jnp.dtype(config.compute_dtype)
    if kind == "resnet":
        return ImpalaResNet(config.width, dtype, layers_are_split, normalizes)
    if kind == "nature":
        return NatureCNN(config.width, dtype, normalizes)
    if kind == "minatar":
        return MinAtarCNN(config.width, dtype, normalizes)
    if kind == "drq":
        return DrQCNN(config.width, dtype, normalizes)
    return MLP(config.hidden_sizes, dtype, config.activation, normalizes)


def _parse(part: str) -> tuple[str, str]:
    """Returns the name and the encoder of an entry of `network.parts`."""
    name, _, kind = part.rpartition(":")
    return name.strip(), kind.strip()


def _check_source(spec: EnvSpec, observation: PyTree) -> None:
    """Raises ConfigError unless a source's parts and mask are what podrl knows to treat."""
    parts = observation if isinstance(observation, Mapping) else {}
    for name, part in parts.items():
        found = f"{part.dtype}{list(part.shape)}" if isinstance(part, jax.ShapeDtypeStruct) else type(part).__name__
        check(
            isinstance(part, jax.ShapeDtypeStruct) and len(part.shape) in (1, 3),
            f"env.id={spec.id!r}: its source gives the part {name!r} as {found}; expected an image [H, W, C] or a "
            "vector [D].",
        )
    mask, size = action_mask(spec.observation), num_logits(spec.actions)
    check(
        mask is None or (size > 0 and mask == jax.ShapeDtypeStruct((size,), jnp.bool_)),
        f"env.id={spec.id!r}: its source gives the action mask as {mask}; expected bool[{size}], one for each option "
        "of the actions" + (", which have none." if not size else "."),
    )


def _check_parts(config: NetworkConfig, spec: EnvSpec, observation: PyTree) -> None:
    """Raises ConfigError unless `network.parts` names parts and encoders that exist."""
    names = list(observation) if isinstance(observation, Mapping) else []
    for part in config.parts:
        name, kind = _parse(part)
        check(
            kind in _ENCODERS and bool(name),
            f"network.parts has {part!r}; write 'PART: ENCODER' with an encoder of {', '.join(_ENCODERS)}.",
        )
        check(
            name in names,
            f"network.parts names {name!r}, and env.id={spec.id!r} observes "
            + (f"the parts {', '.join(names)}{did_you_mean(name, names)}" if names else "a single array."),
        )


def _check_image(kind: str, part: jax.ShapeDtypeStruct, spec: EnvSpec, what: str, remedy: str) -> None:
    """Raises ConfigError if a convolutional encoder cannot take a part."""
    size = _MIN_IMAGE_SIZE.get(kind)
    if size and (not is_image(part) or min(part.shape[:2]) < size):
        least = f" of at least {size}x{size}" if size > 1 else ""
        found = part.shape if what else spec.observed or part.shape
        raise ConfigError(
            f"network.encoder={kind!r} needs images [H, W, C]{least}; env.id={spec.id!r} gives {found}{what}. "
            f"Use {remedy}."
        )
