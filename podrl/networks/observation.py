"""From an observation to features: the encoder that a config describes, and which observations it can take."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from podrl.config.config import ConfigError, NetworkConfig
from podrl.networks.encoders import MINATAR_MIN_SIZE, MLP, NATURE_MIN_SIZE, ImpalaResNet, MinAtarCNN, NatureCNN
from podrl.types import EnvSpec

_MIN_IMAGE_SIZE = {"resnet": 1, "nature": NATURE_MIN_SIZE, "minatar": MINATAR_MIN_SIZE}


def make_encoder(config: NetworkConfig, *, layers_are_split: bool) -> nn.Module:
    """Returns the encoder; `layers_are_split` says whether the channels of its layers are split over devices."""
    dtype: DTypeLike = jnp.dtype(config.compute_dtype)
    if config.encoder == "resnet":
        return ImpalaResNet(config.width, dtype, layers_are_split)
    if config.encoder == "nature":
        return NatureCNN(config.width, dtype)
    if config.encoder == "minatar":
        return MinAtarCNN(config.width, dtype)
    return MLP(config.hidden_sizes, dtype, config.activation)


def encode(encoder: nn.Module, stacked: jax.Array, last: jax.Array | None) -> jax.Array:
    """Computes features [B, T, F] in float32, joined with `last`; the encoder sees a single axis of rows."""
    features = encoder(stacked.reshape(-1, *stacked.shape[2:])).astype(jnp.float32)
    features = features.reshape(*stacked.shape[:2], -1)
    return features if last is None else jnp.concatenate([features, last], axis=-1)


def check_observation(config: NetworkConfig, spec: EnvSpec) -> None:
    """Raises ConfigError if the encoder cannot take the environment's observations."""
    frame = spec.observation
    if not isinstance(frame, jax.ShapeDtypeStruct):
        raise ConfigError(
            f"network.encoder={config.encoder!r} needs one array per observation; env.id={spec.id!r} gives "
            f"{type(frame).__name__}. Choose entries of it with env.observation_keys."
        )
    if config.frame_stack > 1 and not frame.shape:
        raise ConfigError(
            f"network.frame_stack={config.frame_stack} needs observations with at least one axis; env.id={spec.id!r} "
            "gives a scalar. Use network.frame_stack=1."
        )
    size = _MIN_IMAGE_SIZE.get(config.encoder)
    if size and (len(frame.shape) != 3 or min(frame.shape[:2]) < size):
        least = f" of at least {size}x{size}" if size > 1 else ""
        raise ConfigError(
            f"network.encoder={config.encoder!r} needs images [H, W, C]{least}; env.id={spec.id!r} gives "
            f"{spec.observed or frame.shape}. Use network.encoder='mlp'."
        )
