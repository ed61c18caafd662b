"""Convolutions in the form that XLA's CPU backend runs fastest; on other backends they are plain convolutions.

`conv_3x3`: on CPU a float32 convolution runs in YNNPACK, at twice to three times the speed of the fallback, only if its
input or its output has more than 16 channels (jax 0.10.2). Layers of the IMPALA ResNet have 16, so they get one more
output channel, of zeros; `podrl.runtime.xla_flags` decides where YNNPACK is worth it. The first layer, on images of 4
channels, computes two neighbouring outputs at once. XLA derives the weight gradient as a convolution with a window of
the whole image. Here it is a matrix product: several times as fast on processors without AVX-512, and twenty times in
a loop of the compiled program.

`conv_valid`: where windows overlap little, as in DQN's network, cutting the images into patches and multiplying
matrices is faster, above all for the weight gradient, and keeps more cores busy.
"""

import os

import jax
from jax import lax
import jax.numpy as jnp

from podrl.runtime.xla_flags import has_ynnpack_convolutions

_SLOW_CHANNELS = 16
_PAIRED_CHANNELS = 8  # the most input channels for which outputs are computed two at a time
_LAYOUT = ("NHWC", "HWIO", "NHWC")


@jax.custom_vjp
def conv_3x3(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution with stride 1 and SAME padding.

    On CPU its form depends on the value of `XLA_FLAGS` when it is traced.

    Args:
        images: [N, H, W, C] float.
        kernel: [3, 3, C, F] of the same dtype.

    Returns:
        [N, H, W, F]; equal to `lax.conv_general_dilated` except for the order in which terms are added.
    """
    return lax.platform_dependent(images, kernel, cpu=_on_cpu, default=_plain)


def _forward(images: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return conv_3x3(images, kernel), (images, kernel)


def _backward(residuals: tuple[jax.Array, jax.Array], grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    images, kernel = residuals
    turned = jnp.swapaxes(jnp.flip(kernel, (0, 1)), 2, 3)
    as_product = _weight_gradient_as_product if kernel.dtype == jnp.float32 else _weight_gradient
    return conv_3x3(grad, turned), lax.platform_dependent(images, grad, cpu=as_product, default=_weight_gradient)


conv_3x3.defvjp(_forward, _backward)


def _weight_gradient(images: jax.Array, grad: jax.Array) -> jax.Array:
    """Computes the weight gradient [3, 3, C, F] as XLA derives it."""
    kernel = jax.ShapeDtypeStruct((3, 3, images.shape[3], grad.shape[3]), grad.dtype)
    (gradient,) = jax.linear_transpose(lambda kernel: _plain(images, kernel), kernel)(grad)
    return gradient


def _weight_gradient_as_product(images: jax.Array, grad: jax.Array) -> jax.Array:
    """Computes the weight gradient [3, 3, C, F] as a matrix product."""
    # Makes the factors depend on the gradient: XLA would otherwise compute those of all layers in the forward pass. XLA
    # does not fold 0 * x, which is NaN where a gradient is not finite; such an update is lost in any case.
    images = images + 0 * grad[..., :1]
    return _product_of_pairs(images, grad) if _suits_pairs(images) else _product_of_shifts(images, grad)


def _product_of_shifts(images: jax.Array, grad: jax.Array) -> jax.Array:
    """Multiplies images, shifted by each of three columns, by gradients, shifted by each of three rows; [3, 3, C, F].

    Each factor takes three times the memory of its source; patches would take nine times that of the images.
    """
    height, width, channels = images.shape[1:]
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    columns = jnp.stack([padded[:, :, column : column + width] for column in range(3)], axis=-1)
    # XLA multiplies matrices as they are; it would transpose factors of more dimensions first.
    spaced = jnp.pad(grad, ((0, 0), (2, 2), (0, 0), (0, 0)))
    rows = jnp.stack([spaced[:, 2 - row : 4 - row + height] for row in range(3)], axis=-1)
    product = columns.reshape(-1, channels * 3).T @ rows.reshape(-1, grad.shape[3] * 3)
    return product.reshape(channels, 3, -1, 3).transpose(3, 1, 0, 2)


def _product_of_pairs(images: jax.Array, grad: jax.Array) -> jax.Array:
    """Multiplies windows of two outputs, which are small where channels are few, by their gradients; [3, 3, C, F]."""
    (height, width, channels), features = images.shape[1:], grad.shape[3]
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(-1, height + 2, width // 2 + 1, 2 * channels)
    halves = [padded[:, row : row + height, half : half + width // 2] for row in range(3) for half in range(2)]
    windows = jnp.concatenate(halves, axis=-1).reshape(-1, 12 * channels)
    paired = (windows.T @ grad.reshape(-1, 2 * features)).reshape(3, 4, channels, 2 * features)
    kernel = jax.ShapeDtypeStruct((3, 3, channels, features), grad.dtype)
    (gradient,) = jax.linear_transpose(_paired, kernel)(paired)
    return gradient


def _plain(images: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=_LAYOUT)


def _on_cpu(images: jax.Array, kernel: jax.Array) -> jax.Array:
    return _in_pairs(images, kernel) if _suits_pairs(images) else _widened(images, kernel)


def _suits_pairs(images: jax.Array) -> bool:
    return images.dtype == jnp.float32 and images.shape[3] <= _PAIRED_CHANNELS and images.shape[2] % 2 == 0


def _in_pairs(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves two outputs of a row at once: the sums are longer, and the outputs have twice the channels."""
    pairs = lax.conv_general_dilated(images, _paired(kernel), (1, 2), ((1, 1), (1, 1)), dimension_numbers=_LAYOUT)
    return pairs.reshape(*images.shape[:3], kernel.shape[3])


def _paired(kernel: jax.Array) -> jax.Array:
    """Pairs the kernels of an output and its neighbour over the columns of both: [3, 3, C, F] -> [3, 4, C, 2F]."""
    return jnp.concatenate([jnp.pad(kernel, ((0, 0), (k, 1 - k), (0, 0), (0, 0))) for k in range(2)], axis=3)


def _widened(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with an additional output channel of zeros where input and output channels are few."""
    channels = kernel.shape[3]
    is_slow = images.dtype == jnp.float32 and max(kernel.shape[2:]) <= _SLOW_CHANNELS
    if not (is_slow and has_ynnpack_convolutions(os.environ)):
        return _plain(images, kernel)
    wide = jnp.pad(kernel, ((0, 0), (0, 0), (0, 0), (0, _SLOW_CHANNELS + 1 - channels)))
    return _plain(images, wide)[..., :channels]


def conv_valid(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolution without padding.

    Args:
        images: [N, H, W, C] of the kernel's dtype, or uint8, which has no gradient and is cheaper than floats.
        kernel: [K, K, C, F] float; K is a multiple of the stride.
        stride: The stride in pixels, along height and width.

    Returns:
        [N, (H - K) // stride + 1, (W - K) // stride + 1, F], equal to `lax.conv_general_dilated` except for the order
        in which terms are added.

    Raises:
        ValueError: If K is not a multiple of the stride.
    """
    if kernel.shape[0] % stride:
        raise ValueError(f"A kernel of size {kernel.shape[0]} is not a multiple of its stride, {stride}.")

    def plain(images: jax.Array, kernel: jax.Array) -> jax.Array:
        images = images.astype(kernel.dtype)
        return lax.conv_general_dilated(images, kernel, (stride, stride), "VALID", dimension_numbers=_LAYOUT)

    def as_product(images: jax.Array, kernel: jax.Array) -> jax.Array:
        size, _, channels, features = kernel.shape
        if images.dtype == jnp.uint8:
            windows = _byte_patches(images, size, stride)
            kernel = kernel.reshape(size, size // stride, stride * channels, features).swapaxes(0, 1)
        else:
            windows = cut_patches(images, size, stride)
        # Without the barrier XLA swaps the factors of the weight gradient, a product [F, N] x [N, K*K*C], to remove the
        # transposition, and takes three times as long.
        weights = lax.optimization_barrier(kernel.reshape(-1, features).T)
        return windows.astype(kernel.dtype) @ weights.T

    if kernel.dtype != jnp.float32:
        return plain(images, kernel)
    return lax.platform_dependent(images, kernel, cpu=as_product, default=plain)


def cut_patches(images: jax.Array, size: int, stride: int) -> jax.Array:
    """Cuts images into the pixels that each window sees.

    Args:
        images: [N, H, W, C] of any dtype.
        size: The side of a window in pixels; a multiple of the stride.
        stride: The distance from one window to the next, in pixels.

    Returns:
        [N, (H - size) // stride + 1, (W - size) // stride + 1, size * size * C].
    """
    n, height, width, channels = images.shape
    rows, columns = (height - size) // stride + 1, (width - size) // stride + 1
    # A row of pixels is cut into blocks of one stride, so that slices are long runs of memory.
    blocks = columns - 1 + size // stride
    images = images[:, :, : blocks * stride]
    parts = []
    for i in range(size):
        row = images[:, i : i + (rows - 1) * stride + 1 : stride].reshape(n, rows, blocks, stride * channels)
        parts += [row[:, :, j : j + columns] for j in range(size // stride)]
    return jnp.concatenate(parts, axis=-1)


def _byte_patches(images: jax.Array, size: int, stride: int) -> jax.Array:
    """Cuts uint8 images like `cut_patches`, with all rows of a window's first block of columns first.

    Rows are joined before windows, and bytes move four at a time where blocks divide into words: half the time.
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
