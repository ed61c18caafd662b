"""Convolutions in the form that XLA's CPU backend runs fastest; on other backends all of it is the plain convolution.

`conv_3x3`: a float32 convolution runs in YNNPACK there, at twice to three times the speed of the fallback, only if its
input or its output has more than 16 channels (jax 0.10.2). The IMPALA ResNet's first layers have 4 and 16. One more
output channel, of zeros, is enough. Weight gradients take the fast path as they are, and lose by it, so they stay as
XLA derives them.

`conv_valid`: where windows overlap little, as in DQN's network, cutting the images into patches and multiplying
matrices is faster, above all for the weight gradient, and keeps more cores busy.
"""

import jax
from jax import lax
import jax.numpy as jnp

_SLOW_CHANNELS = 16
_LAYOUT = ("NHWC", "HWIO", "NHWC")


@jax.custom_vjp
def conv_3x3(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution with stride 1 and SAME padding.

    Args:
        images: [N, H, W, C] float.
        kernel: [3, 3, C, F] of the same dtype.

    Returns:
        [N, H, W, F]; equal to `lax.conv_general_dilated` but for the order in which terms are added.
    """
    return lax.platform_dependent(images, kernel, cpu=_widened, default=_plain)


def _forward(images: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return conv_3x3(images, kernel), (images, kernel)


def _backward(residuals: tuple[jax.Array, jax.Array], grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    images, kernel = residuals
    _, kernel_vjp = jax.vjp(lambda kernel: _plain(images, kernel), kernel)
    turned = jnp.swapaxes(jnp.flip(kernel, (0, 1)), 2, 3)
    return conv_3x3(grad, turned), *kernel_vjp(grad)


conv_3x3.defvjp(_forward, _backward)


def _plain(images: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=_LAYOUT)


def _widened(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution with a channel of zeros behind its outputs, where they and the inputs are few."""
    channels = kernel.shape[3]
    if images.dtype != jnp.float32 or max(kernel.shape[2:]) > _SLOW_CHANNELS:
        return _plain(images, kernel)
    wide = jnp.pad(kernel, ((0, 0), (0, 0), (0, 0), (0, _SLOW_CHANNELS + 1 - channels)))
    return _plain(images, wide)[..., :channels]


def conv_valid(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolution without padding.

    Args:
        images: [N, H, W, C] of the kernel's dtype, or uint8: then without a gradient, and cheaper than as floats.
        kernel: [K, K, C, F] float; K is a multiple of the stride.
        stride: in pixels, along height and width.

    Returns:
        [N, (H - K) // stride + 1, (W - K) // stride + 1, F], equal to `lax.conv_general_dilated` but for the order in
        which terms are added.

    Raises:
        ValueError: if K is not a multiple of the stride.
    """
    if kernel.shape[0] % stride:
        raise ValueError(f"A kernel of size {kernel.shape[0]} is not a multiple of its stride, {stride}.")

    def plain(images: jax.Array, kernel: jax.Array) -> jax.Array:
        images = images.astype(kernel.dtype)
        return lax.conv_general_dilated(images, kernel, (stride, stride), "VALID", dimension_numbers=_LAYOUT)

    def as_product(images: jax.Array, kernel: jax.Array) -> jax.Array:
        size, _, channels, features = kernel.shape
        if images.dtype == jnp.uint8:
            patches = _byte_patches(images, size, stride)
            kernel = kernel.reshape(size, size // stride, stride * channels, features).swapaxes(0, 1)
        else:
            patches = _patches(images, size, stride)
        # Without the barrier XLA swaps the factors of the weight gradient, a product [F, N] x [N, K*K*C], to get rid
        # of the transposition, and takes three times as long.
        weights = lax.optimization_barrier(kernel.reshape(-1, features).T)
        return patches.astype(kernel.dtype) @ weights.T

    if kernel.dtype != jnp.float32:
        return plain(images, kernel)
    return lax.platform_dependent(images, kernel, cpu=as_product, default=plain)


def _patches(images: jax.Array, size: int, stride: int) -> jax.Array:
    """The pixels that each window sees: [N, H, W, C] to [N, H', W', size * size * C]."""
    n, height, width, channels = images.shape
    rows, columns = (height - size) // stride + 1, (width - size) // stride + 1
    # A row of pixels in blocks of one stride, so that slices are long runs of memory.
    blocks = columns - 1 + size // stride
    images = images[:, :, : blocks * stride]
    parts = []
    for i in range(size):
        row = images[:, i : i + (rows - 1) * stride + 1 : stride].reshape(n, rows, blocks, stride * channels)
        parts += [row[:, :, j : j + columns] for j in range(size // stride)]
    return jnp.concatenate(parts, axis=-1)


def _byte_patches(images: jax.Array, size: int, stride: int) -> jax.Array:
    """`_patches` of uint8 images, but for the order: from all rows of a window's first block of columns to its last.

    Rows are joined before windows, and bytes are moved four at a time where blocks divide into words: half the time.
    """
    n, height, width, channels = images.shape
    rows, columns = (height - size) // stride + 1, (width - size) // stride + 1
    blocks, block = columns - 1 + size // stride, stride * channels
    images = images[:, :, : blocks * stride]
    if block % 4 == 0:
        words = lax.bitcast_convert_type(images.reshape(n, height, blocks, block // 4, 4), jnp.uint32)
    else:
        words = images.reshape(n, height, blocks, block)
    joined = jnp.concatenate([words[:, i : i + (rows - 1) * stride + 1 : stride] for i in range(size)], axis=-1)
    patches = jnp.concatenate([joined[:, :, j : j + columns] for j in range(size // stride)], axis=-1)
    if block % 4 == 0:
        patches = lax.bitcast_convert_type(patches, jnp.uint8)
    return patches.reshape(n, rows, columns, -1)
