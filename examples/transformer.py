"""A small transformer as an encoder: the rows of an image or a grid, or the parts of a vector, are its tokens.

    --config.network.encoder='transformer:Transformer(layers=2)'

Source: Vaswani et al. 2017, arXiv:1706.03762, with layer normalisation before each block: Xiong et al. 2020,
arXiv:2002.04745.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


class Transformer(nn.Module):
    """Encodes observations [N, H, ...], or vectors [N, D], as features [N, size].

    Attributes:
        layers: Blocks of attention and a hidden layer.
        heads: Heads of each attention.
        size: Size of a token, and of the features.
        parts: Equal parts that a vector is cut into; its size must be a multiple. Images are cut into their rows.
        dtype: The dtype of activations, which is `network.compute_dtype`.
    """

    layers: int = 2
    heads: int = 2
    size: int = 32
    parts: int = 10
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, observation: jax.Array) -> jax.Array:
        """Encodes a batch of observations; uint8 values are pixels."""
        scale = 255 if observation.dtype == jnp.uint8 else 1
        count = self.parts if observation.ndim == 2 else observation.shape[1]
        tokens = observation.reshape(observation.shape[0], count, -1).astype(self.dtype) / scale
        place = self.param("place", nn.initializers.normal(0.02), (count, self.size)).astype(self.dtype)
        x = nn.Dense(self.size, dtype=self.dtype)(tokens) + place
        for _ in range(self.layers):
            y = nn.LayerNorm(dtype=self.dtype)(x)
            x += nn.MultiHeadDotProductAttention(num_heads=self.heads, dtype=self.dtype)(y)
            y = nn.Dense(4 * self.size, dtype=self.dtype)(nn.LayerNorm(dtype=self.dtype)(x))
            x += nn.Dense(self.size, dtype=self.dtype)(nn.gelu(y))
        return nn.LayerNorm(dtype=self.dtype)(x).mean(axis=1)
