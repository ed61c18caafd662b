"""Observations of several parts, such as a camera's image beside joint angles: what is seen, stacked and encoded.

An observation is one array, or a dictionary of images [H, W, C] and one vector [D] (`podrl.envs.observations`). Only
images have frame stacks there, since a vector can hold what it remembers.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from podrl.networks import frame_stack
from podrl.networks.encoders import RELU_INIT, normalize_layer, scale_pixels
from podrl.types import ACTION_MASK, PyTree

# Units of the layer that sees the features of all parts, as many as ImpalaResNet's last.
FUSED_SIZE = 256


class PartsEncoder(nn.Module):
    """Encodes images each by itself and all other parts together; parts [N, ...] -> [N, F].

    Features of more than one encoder are concatenated, and pass through one dense layer: the heads are linear, and
    what an image means may depend on the vector.

    Attributes:
        images: The encoders of parts, by name; dots stand for slashes.
        others: The encoder of all other parts, flattened and joined.
        dtype: The dtype of activations.
        normalizes: Whether there is a layer normalisation before the activation function.
    """

    images: Mapping[str, nn.Module]
    others: nn.Module
    dtype: DTypeLike = jnp.float32
    normalizes: bool = False

    @nn.compact
    def __call__(self, parts: Mapping[str, jax.Array]) -> jax.Array:
        """Encodes the parts."""
        own = {name: module_name(name) for name in sorted(parts)}
        features = [self.images[key](parts[name]) for name, key in own.items() if key in self.images]
        others = [parts[name] for name, key in own.items() if key not in self.images]
        if others:
            flat = [scale_pixels(part, self.dtype).reshape(part.shape[0], -1) for part in others]
            features.append(self.others(jnp.concatenate(flat, axis=-1)))
        if len(features) == 1:
            return features[0]
        joined = jnp.concatenate(features, axis=-1)
        fused = nn.Dense(FUSED_SIZE, dtype=self.dtype, kernel_init=RELU_INIT, name="fused")(joined)
        return nn.relu(normalize_layer(fused, self.normalizes))


def module_name(part: str) -> str:
    """Returns a part's name in the paths of parameters, where slashes separate modules."""
    return part.replace("/", ".")


def seen(observation: PyTree) -> PyTree:
    """Returns what encoders see of an observation or its shapes: all but the action mask; the array if that is one."""
    if not isinstance(observation, Mapping):
        return observation
    parts = {name: part for name, part in observation.items() if name != ACTION_MASK}
    return next(iter(parts.values())) if len(parts) == 1 else parts


def action_mask(observation: PyTree) -> Any:
    """Returns the action mask of an observation or its shapes; None if it has none."""
    return observation.get(ACTION_MASK) if isinstance(observation, Mapping) else None


def is_image(part: Any) -> bool:
    """Returns whether the shape of one environment's part is that of an image."""
    return len(part.shape) == 3


def initial_frames(batch_size: int, observation: PyTree, num_frames: int) -> PyTree:
    """Returns `frame_stack.initial_carry` of what is seen; parts that are not stacked have `()`."""
    if not isinstance(observation, Mapping):
        return frame_stack.initial_carry(batch_size, observation, num_frames)
    return {
        name: frame_stack.initial_carry(batch_size, part, num_frames if is_image(part) else 1)
        for name, part in observation.items()
    }


def stack_frames(observation: PyTree, first: jax.Array, frames: PyTree) -> tuple[PyTree, PyTree]:
    """Stacks rows [B, T, ...] of what is seen, see `frame_stack.unroll`; returns stacks and the next frames."""
    if not isinstance(observation, Mapping):
        return frame_stack.unroll(observation, first, frames, time_axis=1)
    both = {name: frame_stack.unroll(part, first, frames[name], time_axis=1) for name, part in observation.items()}
    return {name: stacked for name, (stacked, _) in both.items()}, {name: carry for name, (_, carry) in both.items()}


def stack_chosen(observation: PyTree, first: jax.Array, frames: PyTree, rows: jax.Array) -> PyTree:
    """Stacks only the chosen rows, see `frame_stack.rows`."""
    if not isinstance(observation, Mapping):
        return frame_stack.rows(observation, first, frames, rows)
    return {name: frame_stack.rows(part, first, frames[name], rows) for name, part in observation.items()}
