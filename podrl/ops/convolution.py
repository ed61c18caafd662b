"""3x3 convolutions that reach the fast path of XLA's CPU backend.

There a float32 convolution runs in YNNPACK, at twice to three times the speed of the fallback, only if its input or
its output has more than 16 channels (jax 0.10.2). The IMPALA ResNet's first layers have 4 and 16. One more output
channel, of zeros, is enough. Weight gradients take the fast path as they are, and lose by it, so they stay as XLA
derives them. On other backends all of it is the plain convolution.
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
