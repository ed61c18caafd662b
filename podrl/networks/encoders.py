"""Encoders, which map a batch of observations to a batch of feature vectors.

Inputs are [N, ...]; integers stay integers until the first layer. Activations are in `dtype`, parameters in float32.
With `normalizes` there is a layer normalisation before each activation function.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from podrl.networks.convolution import conv_3x3, conv_valid
from podrl.networks.pooling import max_pool_3x3_stride_2

# The smallest image side for which unpadded convolutions leave a pixel; Nature's: 36 -> 8 -> 3 -> 1.
NATURE_MIN_SIZE = 36
MINATAR_MIN_SIZE = 3
DRQ_MIN_SIZE = 15

# Keeps the scale of activations from layer to layer: ReLU halves the second moment.
RELU_INIT = nn.initializers.he_normal()
TANH_INIT = nn.initializers.orthogonal(2**0.5)


class ImpalaResNet(nn.Module):
    """The deep residual network of IMPALA; images [N, H, W, C] -> [N, 256].

    Three sections of 16, 32 and 32 channels (times `width`): convolution, max-pooling, two residual blocks. The dense
    layer has 256 units whatever the width. Where the channels of its layers are split over devices (`is_split`), the
    convolutions are plain ones, for acting as well: on CPU `conv_3x3` would move three times as much data between the
    devices.

    Source: Espeholt et al. 2018, arXiv:1802.01561, figure 3; width as in Cobbe et al. 2019, arXiv:1912.01588.
    """

    width: int = 1
    dtype: DTypeLike = jnp.float32
    is_split: bool = False
    normalizes: bool = False

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Encodes images."""
        x = scale_pixels(images, self.dtype)
        for channels in (16, 32, 32):
            x = _conv(channels * self.width, self.dtype, self.is_split)(x)
            x = max_pool_3x3_stride_2(x)
            for _ in range(2):
                x = ResidualBlock(self.dtype, self.is_split, self.normalizes)(x)
        x = _flatten(nn.relu(normalize_layer(x, self.normalizes)))
        x = nn.Dense(256, dtype=self.dtype, kernel_init=RELU_INIT)(x)
        return nn.relu(normalize_layer(x, self.normalizes))


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), with 3x3 convolutions that keep the shape [N, H, W, C]."""

    dtype: DTypeLike = jnp.float32
    is_split: bool = False
    normalizes: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the block."""
        y = _conv(x.shape[-1], self.dtype, self.is_split)(nn.relu(normalize_layer(x, self.normalizes)))
        return x + _conv(x.shape[-1], self.dtype, self.is_split)(nn.relu(normalize_layer(y, self.normalizes)))


class NatureCNN(nn.Module):
    """The convolutional network of DQN; images [N, H, W, C] of at least 36x36 -> [N, 512 * width].

    Source: Mnih et al. 2015, Human-level control through deep reinforcement learning, Nature 518, methods.
    """

    width: int = 1
    dtype: DTypeLike = jnp.float32
    normalizes: bool = False

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Encodes images."""
        x = images
        for index, (channels, size, stride) in enumerate(((32, 8, 4), (64, 4, 2), (64, 3, 1))):
            layer = UnpaddedConv(channels * self.width, size, stride, self.dtype, name=f"Conv_{index}")
            x = nn.relu(normalize_layer(layer(x), self.normalizes))
        x = nn.Dense(512 * self.width, dtype=self.dtype, kernel_init=RELU_INIT)(_flatten(x))
        return nn.relu(normalize_layer(x, self.normalizes))


class MinAtarCNN(nn.Module):
    """The convolutional network of MinAtar; images [N, H, W, C] of at least 3x3 -> [N, 128 * width].

    Source: Young & Tian 2019, arXiv:1903.03176, section 4.
    """

    width: int = 1
    dtype: DTypeLike = jnp.float32
    normalizes: bool = False

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Encodes images."""
        x = UnpaddedConv(16 * self.width, 3, 1, self.dtype, name="Conv_0")(images)
        x = _flatten(nn.relu(normalize_layer(x, self.normalizes)))
        x = nn.Dense(128 * self.width, dtype=self.dtype, kernel_init=RELU_INIT)(x)
        return nn.relu(normalize_layer(x, self.normalizes))


class DrQCNN(nn.Module):
    """The convolutional network of DrQ-v2; images [N, H, W, C] of at least 15x15 -> [N, H' * W' * 32 * width].

    There is no dense layer: the layers behind it have their own.

    Source: Yarats et al. 2021, arXiv:2107.09645, section 4.1 and its code.
    """

    width: int = 1
    dtype: DTypeLike = jnp.float32
    normalizes: bool = False

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Encodes images."""
        pixels = scale_pixels(images, self.dtype)
        x = pixels - jnp.asarray(0.5, self.dtype) if images.dtype == jnp.uint8 else pixels
        channels, init = 32 * self.width, RELU_INIT
        x = nn.Conv(channels, (3, 3), (2, 2), padding="VALID", kernel_init=init, dtype=self.dtype, name="Conv_0")(x)
        for index in (1, 2, 3):
            x = nn.relu(normalize_layer(x, self.normalizes))
            x = UnpaddedConv(channels, 3, 1, self.dtype, name=f"Conv_{index}")(x)
        x = nn.relu(normalize_layer(x, self.normalizes))
        return _flatten(x)


class UnpaddedConv(nn.Module):
    """A layer of square convolutions without padding; [N, H, W, C] -> [N, H', W', channels].

    uint8 images are pixels of 0 to 255 that count as 0 to 1. The kernel is scaled instead of the images, which stay
    bytes.
    """

    channels: int
    size: int
    stride: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Applies the layer."""
        kernel = self.param("kernel", RELU_INIT, (self.size, self.size, images.shape[-1], self.channels))
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        if images.dtype == jnp.uint8:
            kernel = kernel / 255
        else:
            images = images.astype(self.dtype)
        return conv_valid(images, kernel.astype(self.dtype), self.stride) + bias.astype(self.dtype)


class MLP(nn.Module):
    """Dense layers with `relu` or `tanh`, on observations flattened to vectors; [N, ...] -> [N, hidden_sizes[-1]]."""

    hidden_sizes: Sequence[int]
    dtype: DTypeLike = jnp.float32
    activation: str = "relu"
    normalizes: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Encodes observations of any rank."""
        x = _flatten(scale_pixels(x, self.dtype))
        activate, init = (nn.relu, RELU_INIT) if self.activation == "relu" else (nn.tanh, TANH_INIT)
        for size in self.hidden_sizes:
            x = nn.Dense(size, dtype=self.dtype, kernel_init=init)(x)
            x = activate(normalize_layer(x, self.normalizes))
        return x


def normalize_layer(x: jax.Array, normalizes: bool = True) -> jax.Array:
    """Normalises the last axis to mean 0 and deviation 1, with a learned scale and offset for each of its entries.

    Statistics are float32; the last axis of images are the channels of one pixel. Called inside a module. If
    `normalizes` is false, returns `x` itself.

    Source: Ba et al. 2016, arXiv:1607.06450, equation 4.
    """
    return nn.LayerNorm(dtype=x.dtype)(x) if normalizes else x


def scale_pixels(x: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Casts to `dtype`; uint8 values count as pixels and are divided by 255."""
    return x.astype(dtype) / 255 if x.dtype == jnp.uint8 else x.astype(dtype)


def flatten_rows(x: jax.Array) -> jax.Array:
    """Flattens [N, ...] to [N, D] float32; uint8 values count as pixels."""
    return _flatten(scale_pixels(x, jnp.float32))


def _conv(channels: int, dtype: DTypeLike, is_split: bool) -> nn.Conv:
    """Creates a layer of 3x3 convolutions that keeps the images' size."""
    if is_split:
        return nn.Conv(channels, (3, 3), dtype=dtype)

    def convolve(images: jax.Array, kernel: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
        return conv_3x3(images, kernel)  # The other arguments are the strides, padding and layout of the layer below.

    return nn.Conv(channels, (3, 3), dtype=dtype, conv_general_dilated=convolve)


def _flatten(x: jax.Array) -> jax.Array:
    """Flattens [N, ...] to [N, D]."""
    return x.reshape(x.shape[0], -1)
