"""The parts of a learned model: a representation, a transition and a prediction, for latent vectors and images.

Latent states lie between 0 and 1, as the action does that is joined to them: each is shifted and scaled by its own
smallest and largest entry. Activations are in `dtype`, what the parts put out is float32.

Source: Schrittwieser et al. 2020, arXiv:1911.08265, appendices F and G; Liu et al. 2023, arXiv:2210.05980, appendix.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
from jax import numpy as jnp
from jax.typing import DTypeLike

from podrl.networks.core import LSTM
from podrl.networks.encoders import RELU_INIT, ResidualBlock, normalize_layer, scale_pixels
from podrl.networks.model_records import ModelOutput
from podrl.networks.observation import encode
from podrl.networks.policies import policy_head
from podrl.types import PyTree

_EPSILON = 1e-5
_POLICY_SCALE = 0.1  # Scale of the head's first weights. Latent states are small, so a new policy is nearly uniform.


class VectorRepresentation(nn.Module):
    """An encoder, an optional core and a linear layer; rows [B, T] -> latents [B, T, size] and the core's state."""

    encoder: nn.Module
    size: int
    core: LSTM | None = None

    @nn.compact
    def __call__(
        self, stacked: jax.Array, last: jax.Array | None, first: jax.Array, state: PyTree
    ) -> tuple[jax.Array, PyTree]:
        """Computes latents; see `podrl.networks.actor_critic.ActorCritic` for the arguments."""
        features = encode(self.encoder, stacked, last)
        if self.core is not None:
            features, state = self.core(features, first, state)
        return scale_latent(nn.Dense(self.size, name="latent")(features), 1), state


class VectorTransition(nn.Module):
    """A residual layer on latents and actions; [..., size] and one-hot actions [..., A] -> [..., size]."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, latent: jax.Array, action: jax.Array) -> jax.Array:
        """Computes the next latents."""
        size = latent.shape[-1]
        joined = jnp.concatenate([latent, action], axis=-1)
        hidden = nn.relu(nn.Dense(size, dtype=self.dtype, kernel_init=RELU_INIT, name="hidden")(joined))
        change = nn.Dense(size, dtype=self.dtype, name="change")(hidden)
        return scale_latent(latent + change.astype(jnp.float32), 1)


class VectorPrediction(nn.Module):
    """A layer and three linear heads; latents [..., size] -> `ModelOutput` of [..., ...]."""

    num_actions: int
    num_bins: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, latent: jax.Array) -> ModelOutput:
        """Predicts policy, value and reward."""
        layer = nn.Dense(latent.shape[-1], dtype=self.dtype, kernel_init=RELU_INIT, name="hidden")
        features = nn.relu(layer(latent)).astype(jnp.float32)
        return ModelOutput(
            policy=policy_head(self, features, self.num_actions, scale=_POLICY_SCALE),
            value=_numbers_head(self.num_bins, "value")(features),
            reward=_numbers_head(self.num_bins, "reward")(features),
        )


class ImageRepresentation(nn.Module):
    """A residual network that keeps an image; rows [B, T] of images [H, W, C] -> latents [B, T, H/16, W/16, channels].

    Convolutions with stride 2 and mean-pooling halve the image twice each, with a residual block after each halving.
    """

    channels: int
    blocks: int
    dtype: DTypeLike = jnp.float32
    is_split: bool = False

    @nn.compact
    def __call__(self, stacked: jax.Array, last: None, first: jax.Array, state: PyTree) -> tuple[jax.Array, PyTree]:
        """Computes latents; the state of a core, which there is not, passes through."""
        x = scale_pixels(stacked, self.dtype).reshape(-1, *stacked.shape[2:])
        for channels in (self.channels // 2, self.channels):
            x = nn.Conv(channels, (3, 3), strides=2, dtype=self.dtype, kernel_init=RELU_INIT)(x)
            x = self._blocks(x, 1)
        for blocks in (1, self.blocks):
            x = nn.avg_pool(x, (3, 3), (2, 2), "SAME")
            x = self._blocks(x, blocks)
        latent = scale_latent(x.astype(jnp.float32), 3)
        return latent.reshape(*stacked.shape[:2], *latent.shape[1:]), state

    def _blocks(self, x: jax.Array, num: int) -> jax.Array:
        return residual_blocks(x, num, self.dtype, self.is_split)


class ImageTransition(nn.Module):
    """A convolution and residual blocks on latents and planes of actions; [..., H, W, C] -> [..., H, W, C]."""

    blocks: int
    dtype: DTypeLike = jnp.float32
    is_split: bool = False

    @nn.compact
    def __call__(self, latent: jax.Array, action: jax.Array) -> jax.Array:
        """Computes the next latents, of latents and one-hot actions [..., A]."""
        planes = jnp.broadcast_to(action[..., None, None, :], (*latent.shape[:-1], action.shape[-1]))
        joined = jnp.concatenate([latent, planes], axis=-1).astype(self.dtype)
        rows = joined.reshape(-1, *joined.shape[-3:])
        change = nn.Conv(latent.shape[-1], (3, 3), dtype=self.dtype, kernel_init=RELU_INIT, name="change")(rows)
        x = change + latent.astype(self.dtype).reshape(-1, *latent.shape[-3:])
        x = residual_blocks(x, self.blocks, self.dtype, self.is_split)
        return scale_latent(x.astype(jnp.float32), 3).reshape(latent.shape)


class ImagePrediction(nn.Module):
    """Residual blocks and three heads, that of the reward before the blocks; latents [..., H, W, C] -> `ModelOutput`.

    A head is a 1x1 convolution and two dense layers, normalised, of twice as many channels and units as the latent has.
    """

    num_actions: int
    num_bins: int
    blocks: int
    dtype: DTypeLike = jnp.float32
    is_split: bool = False

    @nn.compact
    def __call__(self, latent: jax.Array) -> ModelOutput:
        """Predicts policy, value and reward."""
        x = latent.astype(self.dtype).reshape(-1, *latent.shape[-3:])
        deep = residual_blocks(x, self.blocks, self.dtype, self.is_split)
        leading = latent.shape[:-3]
        policy, value, reward = (
            self._features(rows, name).reshape(*leading, -1)
            for rows, name in ((deep, "policy"), (deep, "value"), (x, "reward"))
        )
        return ModelOutput(
            policy=policy_head(self, policy, self.num_actions, scale=_POLICY_SCALE),
            value=_numbers_head(self.num_bins, "value")(value),
            reward=_numbers_head(self.num_bins, "reward")(reward),
        )

    def _features(self, x: jax.Array, name: str) -> jax.Array:
        size = 2 * x.shape[-1]
        x = nn.Conv(size, (1, 1), dtype=self.dtype, kernel_init=RELU_INIT, name=f"{name}_conv")(x)
        x = nn.relu(normalize_layer(x)).reshape(x.shape[0], -1)
        for index in range(2):
            x = nn.Dense(size, dtype=self.dtype, kernel_init=RELU_INIT, name=f"{name}_hidden_{index}")(x)
            x = nn.relu(normalize_layer(x))
        return x.astype(jnp.float32)


def residual_blocks(x: jax.Array, num: int, dtype: DTypeLike, is_split: bool) -> jax.Array:
    """Applies normalised residual blocks to images [N, H, W, C]. Called inside a module."""
    for _ in range(num):
        x = ResidualBlock(dtype, is_split, normalizes=True)(x)
    return x


def scale_latent(x: jax.Array, num_axes: int) -> jax.Array:
    """Scales each latent state, the last `num_axes` axes of x, to [0, 1].

    Source: Schrittwieser et al. 2020, arXiv:1911.08265, appendix G.
    """
    axes: Sequence[int] = range(-num_axes, 0)
    low, high = jnp.min(x, axis=tuple(axes), keepdims=True), jnp.max(x, axis=tuple(axes), keepdims=True)
    return (x - low) / (high - low + _EPSILON)


def _numbers_head(num_bins: int, name: str) -> nn.Dense:
    """Returns a linear head whose first logits are all zero: a new model predicts zero."""
    return nn.Dense(num_bins, kernel_init=nn.initializers.zeros, name=name)
