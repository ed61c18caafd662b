"""Augmentation of images: random shift, cutout, intensity and noise.

Images are [..., H, W, C], uint8 of 0 to 255 or floats; results have their shape and dtype. A frame stack lies in the
channels, so a draw is the same for all frames of a stack.

Each function takes its keys in one of two forms. One typed PRNG key: every image of the leading axes [...] gets a draw
of its own, from a key split from it. Or keys [K...], whose axes are the first of the leading axes: each key makes one
draw, which all images of the other leading axes share. With keys folded from the number of each sample, results are the
same on any number of devices and in any part of a batch.
"""

from collections.abc import Callable
import functools

import jax
from jax import numpy as jnp

_LARGEST = 2.0  # Deviations of the intensity's Gaussian.


@functools.partial(jax.jit, static_argnames=("padding",))
def random_shift(key: jax.Array, images: jax.Array, *, padding: int = 4) -> jax.Array:
    """Shifts each image by -`padding` to `padding` pixels in both directions, all equally likely.

    That is padding by replication of the border, and a crop of the first size at random. Rows are gathered whole, and
    then columns: on a CPU that takes a fifth of the time of one `dynamic_slice` of each padded image, and a tenth or
    less of that of products with one-hot matrices. Bytes are shifted faster than floats.

    Args:
        key: One key, or keys [K...].
        images: [..., H, W, C].
        padding: The largest shift in pixels; 0 leaves images as they are.

    Source: Kostrikov et al. 2020, arXiv:2004.13649, section 3.1; Yarats et al. 2021, arXiv:2107.09645, section 3.1
    (here without interpolation, as shifts are whole pixels).
    """

    def shift(key: jax.Array, image: jax.Array) -> jax.Array:
        offsets = jax.random.randint(key, (2,), -padding, padding + 1)
        for axis, offset in zip((-3, -2), offsets, strict=True):
            size = image.shape[axis]
            places = jnp.arange(size) + offset
            image = jnp.take(image, places, axis=axis, mode="clip")  # Clipping repeats the border.
        return image

    return _of_each(shift, key, images)


@functools.partial(jax.jit, static_argnames=("size",))
def random_cutout(key: jax.Array, images: jax.Array, *, size: int) -> jax.Array:
    """Fills a square of each image with zeros, around a random pixel; a part of it may lie outside of the image.

    Args:
        key: One key, or keys [K...].
        images: [..., H, W, C].
        size: The square's side in pixels.

    Source: DeVries & Taylor 2017, arXiv:1708.04552, section 3.
    """

    def cut(key: jax.Array, image: jax.Array) -> jax.Array:
        height, width = image.shape[-3:-1]
        centre = jax.random.randint(key, (2,), 0, jnp.asarray([height, width]))
        rows, columns = (
            jnp.arange(side) - start for side, start in zip((height, width), centre - size // 2, strict=True)
        )
        inside = ((rows >= 0) & (rows < size))[:, None] & ((columns >= 0) & (columns < size))
        return jnp.where(inside[..., None], jnp.zeros((), image.dtype), image)

    return _of_each(cut, key, images)


@functools.partial(jax.jit, static_argnames=("scale",))
def random_intensity(key: jax.Array, images: jax.Array, *, scale: float = 0.05) -> jax.Array:
    """Multiplies each image by 1 + `scale` * z, with z of a standard Gaussian, clipped to [-2, 2].

    Bytes are rounded, and end at 255.

    Args:
        key: One key, or keys [K...].
        images: [..., H, W, C].
        scale: The factor's standard deviation, at most 0.5.

    Source: Kostrikov et al. 2020, arXiv:2004.13649, appendix E; Schwarzer et al. 2020, arXiv:2007.05929, section 2.3.
    """

    def multiply(key: jax.Array, image: jax.Array) -> jax.Array:
        z = jnp.clip(jax.random.normal(key), -_LARGEST, _LARGEST)
        return _as(image.dtype, image.astype(jnp.float32) * (1 + scale * z))

    return _of_each(multiply, key, images)


@functools.partial(jax.jit, static_argnames=("scale",))
def random_noise(key: jax.Array, images: jax.Array, *, scale: float) -> jax.Array:
    """Adds Gaussian noise of its own to every pixel and channel.

    Bytes are rounded, and stay within 0 to 255. Images of other leading axes than the keys' share their noise.

    Args:
        key: One key, or keys [K...].
        images: [..., H, W, C].
        scale: The noise's standard deviation: of floats in their units, of bytes in units of 255.

    Source: Laskin et al. 2020, arXiv:2004.14990, section 3.1 (noise on states), here on pixels.
    """

    def add(key: jax.Array, image: jax.Array) -> jax.Array:
        unit = 255.0 if image.dtype == jnp.uint8 else 1.0
        noise = scale * unit * jax.random.normal(key, image.shape[-3:])
        return _as(image.dtype, image.astype(jnp.float32) + noise)

    return _of_each(add, key, images)


def _of_each(change: Callable[[jax.Array, jax.Array], jax.Array], key: jax.Array, images: jax.Array) -> jax.Array:
    """Applies (key [], images [..., H, W, C]) -> images to the images of each key; one key is split first.

    Raises:
        ValueError: If there are no images, or the keys' axes are not the first of the leading ones.
    """
    leading = images.shape[:-3]
    if images.ndim < 3 or key.shape != leading[: key.ndim]:
        raise ValueError(
            f"Found images {list(images.shape)} and keys {list(key.shape)}; expected [..., H, W, C], and one key or "
            "keys of the first leading axes."
        )
    keys = key if key.ndim or not leading else jax.random.split(key, leading)
    for _ in range(keys.ndim):
        change = jax.vmap(change)
    return change(keys, images)


def _as(dtype: jnp.dtype, x: jax.Array) -> jax.Array:
    """Returns float32 as `dtype`; bytes are rounded and clipped."""
    return jnp.clip(jnp.round(x), 0, 255).astype(dtype) if dtype == jnp.uint8 else x.astype(dtype)
