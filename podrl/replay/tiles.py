"""How large rows of a ring are laid out: as whole tiles of 8 x 128 elements, without a trailing axis of one.

XLA lays an array out with the least padding. For frames [84, 84] that puts the rows of a ring last, and every gather
then copies the whole ring into another layout. Frames padded to whole tiles have their layout already: 84 x 84 frames
are [56, 128], 1.6 % larger. XLA's CPU backend moves [84, 84, 1] byte by byte, and tiles at the speed of memory.
"""

import math

import jax
from jax import numpy as jnp

_SUBLANES, _LANES = 8, 128
_TILE = _SUBLANES * _LANES


def tile_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape in which a ring keeps one row of `shape`: whole tiles, or flat if it is below one tile."""
    size = math.prod(shape)
    if size < _TILE:
        return shape if len(shape) < 2 else (size,)
    return (-(-size // _TILE) * _SUBLANES, _LANES)


def to_tiles(x: jax.Array, num_axes: int) -> jax.Array:
    """Pads and reshapes rows: [..., *shape] to [..., *tile_shape(shape)], after `num_axes` axes that stay."""
    outer, shape = x.shape[:num_axes], x.shape[num_axes:]
    tiles = tile_shape(shape)
    flat = x.reshape(*outer, math.prod(shape))
    padding = math.prod(tiles) - math.prod(shape)
    if padding:
        flat = jnp.pad(flat, [(0, 0)] * num_axes + [(0, padding)])
    return flat.reshape(*outer, *tiles)


def from_tiles(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Undoes `to_tiles`: [..., *tile_shape(shape)] to [..., *shape]."""
    outer = x.shape[: x.ndim - len(tile_shape(shape))]
    flat = x.reshape(*outer, math.prod(x.shape[len(outer) :]))
    return flat[..., : math.prod(shape)].reshape(*outer, *shape)
