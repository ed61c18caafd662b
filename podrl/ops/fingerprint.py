"""Fingerprints: short hashes that show whether two runs computed the same, and where they first differ.

`fingerprint` hashes arrays on the devices that hold them: the parameters after an update, and the batch that it
learned from. On the host `extend` chains both to all earlier ones: runs that once differed never have the same chain
again, even if their parameters become equal later. `hash_arrays` computes one hash per array, for checkpoints,
`hash_piece` computes it of an array piece by piece, and `hash_on_host` of an array in host memory.
"""

from collections.abc import Callable, Mapping
import functools
import hashlib
import math
from typing import TypeVar

import jax
from jax import numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

from podrl.types import PyTree

_WORD_BYTES = 4
_Array = TypeVar("_Array", jax.Array, np.ndarray)


def fingerprint(tree: PyTree) -> jax.Array:
    """Computes a hash of all bits of a tree's arrays, whatever their sharding and the order of summation.

    Each 32-bit word is mixed with its position and summed modulo 2**32 in two lanes. Integer sums are exact in any
    order, so any split over devices gives the same value, and only sums cross between devices. The first two axes,
    which may be sharded, are never merged with others.

    Args:
        tree: Arrays of numbers, bools or typed keys. The tree's structure does not count, nor do shapes and dtypes as
            such.

    Returns:
        [2] uint32.
    """
    lanes = jnp.zeros(2, jnp.uint32)
    for index, leaf in enumerate(jax.tree.leaves(tree)):
        start = jnp.uint32((index * 0x9E3779B9) & 0xFFFFFFFF)  # Equal arrays in different places hash differently.
        lanes += _hash_array(leaf, start)
    return lanes


def hash_arrays(arrays: Mapping[str, jax.Array]) -> dict[str, str]:
    """Computes a hash of every array, 16 hexadecimal digits, on the devices that hold it.

    All processes that hold a part must call it together. It waits until the arrays are computed.

    Args:
        arrays: Arrays of numbers or bools, by name.
    """
    shardings = [array.sharding for array in arrays.values() if isinstance(array.sharding, NamedSharding)]
    everywhere = NamedSharding(shardings[0].mesh, PartitionSpec()) if shardings else None
    words = np.asarray(_hasher(everywhere)(list(arrays.values())))
    return {name: to_hex(lanes) for name, lanes in zip(arrays, words, strict=True)}


def hash_on_host(array: np.ndarray) -> str:
    """Computes, in host memory, the hash of an array that `hash_arrays` computes on devices."""
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    size_bytes = array.dtype.itemsize
    packed = size_bytes == 1 and array.ndim > 2 and math.prod(array.shape[2:]) % _WORD_BYTES == 0
    flat = np.ascontiguousarray(array).reshape(-1)
    if packed or size_bytes >= _WORD_BYTES:
        words = flat.view(np.uint32)
    else:
        words = flat.view(f"uint{8 * size_bytes}").astype(np.uint32)
    mixed = _mix(words ^ _mix(np.arange(words.size, dtype=np.uint32)))
    return to_hex(np.stack([np.sum(lane, dtype=np.uint32) for lane in (mixed, _mix(mixed + np.uint32(1)))]))


@jax.jit
def hash_piece(piece: jax.Array, first: jax.Array) -> jax.Array:
    """Hashes some rows of an array into [2] uint32; summed over all pieces this is the hash of the whole array.

    Args:
        piece: Rows along the array's first axis, or an array without axes.
        first: [] uint32; the place of the first of them in the array.
    """
    row_words = math.prod(jax.eval_shape(_to_words, piece).shape[1:])
    lanes = _mix_words(piece, first * jnp.uint32(row_words & 0xFFFFFFFF))
    # Both sums in one pass: on a CPU that takes a third of the time. Over several devices it would gather their sums.
    zero, axes = jnp.uint32(0), tuple(range(lanes[0].ndim))
    return jnp.stack(jax.lax.reduce(lanes, (zero, zero), lambda x, y: (x[0] + y[0], x[1] + y[1]), axes))


@functools.lru_cache(maxsize=8)
def _hasher(everywhere: NamedSharding | None) -> Callable[[list[jax.Array]], jax.Array]:
    """Returns a function that hashes a list of N arrays into [N, 2] uint32, replicated on every device."""

    def each(arrays: list[jax.Array]) -> jax.Array:
        return jnp.stack([_hash_array(array, jnp.uint32(0)) for array in arrays])

    return jax.jit(each, out_shardings=everywhere)


def to_hex(words: np.ndarray) -> str:
    """Formats two uint32 as 16 hexadecimal digits."""
    return "".join(f"{int(word):08x}" for word in words)


def extend(chain: str, *links: str) -> str:
    """Extends the chain by one update, and returns it.

    Args:
        chain: The chain so far, 16 hexadecimal digits.
        links: The fingerprints of this update, each of 16 hexadecimal digits.
    """
    return hashlib.blake2b(bytes.fromhex("".join((chain, *links))), digest_size=8).hexdigest()


@jax.jit  # Traced once per shape; networks have many arrays of one shape.
def _hash_array(array: jax.Array, start: jax.Array) -> jax.Array:
    """Hashes an array into [2] uint32; `start` is the position of its first word."""
    return jnp.stack([jnp.sum(lane, dtype=jnp.uint32) for lane in _mix_words(array, start)])


def _mix_words(array: jax.Array, start: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mixes each word of an array with its position, in two lanes of uint32; `start` is the position of the first."""
    words = _to_words(array)
    mixed = _mix(words ^ _mix(_positions(words.shape) + start))
    return mixed, _mix(mixed + jnp.uint32(1))


def _to_words(leaf: jax.Array) -> jax.Array:
    """Converts an array's bits to uint32: four bytes to a word where they divide, so images take no more memory."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.uint8)
    size_bytes = leaf.dtype.itemsize
    rest = math.prod(leaf.shape[2:])
    if size_bytes == 1 and leaf.ndim > 2 and rest % _WORD_BYTES == 0:
        leaf = leaf.reshape(*leaf.shape[:2], rest // _WORD_BYTES, _WORD_BYTES)
    elif size_bytes < _WORD_BYTES:
        leaf = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{8 * size_bytes}")).astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(leaf, jnp.uint32)


def _positions(shape: tuple[int, ...]) -> jax.Array:
    """Returns each element's position in row-major order, modulo 2**32, computed on the element's own device."""
    positions, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        if shape[axis] > 1:
            positions += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride & 0xFFFFFFFF)
        stride *= shape[axis]
    return positions


def _mix(x: _Array) -> _Array:
    """Applies the finalizer of MurmurHash3: every input bit changes about half of the output bits."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
