"""A replay ring on disk, piece by piece under the numbers of its environments.

Every array [B, ...] is one zarr3 array whose first axis is the environment's index in the job, so that a ring is read
onto any number of devices, whatever the order of their environments. A piece is some environments that are neighbours
on one device. Only a few pieces are in host memory at a time, and the host never has a view of an array of the ring
itself, which would make the next update copy it.

Arrays with fewer rows than environments have one for each group of neighbours. Those without axes, the words of keys,
and all under the name `counts` are whole on every device (`podrl.replay.interface`).
"""

from collections.abc import Callable, Iterator
import functools
import math
from typing import Any, NamedTuple, cast

from etils import epath
import jax
from jax import numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import tensorstore as ts

from podrl.ops.fingerprint import hash_piece, to_hex
from podrl.runs.state_arrays import by_path
from podrl.types import PyTree

_PIECE_BYTES = 32 << 20  # Smaller only where one environment is larger.
_IN_FLIGHT = 2  # Pieces that are read or written at once.


class Piece(NamedTuple):
    """Some environments of one array of a ring.

    Attributes:
        device: The device that holds them.
        ours: Where they begin on that device.
        stored: Where they begin in the stored array.
        size: How many they are.
    """

    device: jax.Device
    ours: int
    stored: int
    size: int


def ring_order(ring: PyTree) -> np.ndarray:
    """Returns the order [B] uint32 of a ring's environments where one pool or the program itself has all of them."""
    sizes = [leaf.shape[0] for path, leaf in by_path(ring).items() if path.rpartition("/")[2] == "env_index"]
    return np.arange(sizes[0], dtype=np.uint32)


def write_pieces(folder: epath.PathLike, ring: PyTree, env_index: np.ndarray) -> None:
    """Writes what this process's devices hold of a ring; returns when it is written and the ring may be donated.

    The first process that comes to an array creates it.

    Args:
        folder: The folder.
        ring: The ring.
        env_index: [B] uint32; the order of the ring's environments.
    """
    for path, leaf in by_path(ring).items():
        metadata = {"metadata": _metadata(leaf, _piece_size(path, leaf, env_index))}
        store = ts.open(_spec(folder, path) | metadata, open=True, create=True).result()
        pending: list[Any] = []
        for piece, taken in _taken(path, leaf, env_index):
            into = store[piece.stored : piece.stored + piece.size] if leaf.ndim else store
            pending.append(into.write(np.asarray(taken)))
            if len(pending) == _IN_FLIGHT:
                pending.pop(0).result()
        for write in pending:
            write.result()


def read_pieces(folder: epath.PathLike, ring: PyTree, env_index: np.ndarray) -> PyTree:
    """Reads a ring onto devices that may have its environments in another order.

    Args:
        folder: The folder.
        ring: `jax.ShapeDtypeStruct`s of the ring, with shardings.
        env_index: [B] uint32; the order of the environments in a batch that these devices join.

    Raises:
        ValueError: If an array is missing, or of another shape or type; the message names it.
    """

    def read(path: str, like: jax.ShapeDtypeStruct) -> jax.Array:
        sharding: Any = like.sharding
        store = _open_checked(folder, path, like)
        if _is_whole(path, like):
            values = store.read().result()
            shards = [jax.device_put(values, device) for device in sharding.addressable_devices]
            return jax.make_array_from_single_device_arrays(like.shape, sharding, shards)
        made = {
            device: jnp.zeros(sharding.shard_shape(like.shape), like.dtype, device=device)
            for device in sharding.addressable_devices
        }
        for piece, rows in _read_ahead(store, _pieces_of(path, like, env_index, sharding.addressable_devices)):
            placed = jax.device_put(rows, piece.device)
            made[piece.device] = _write_piece(made[piece.device], placed, piece.ours)
            made[piece.device].block_until_ready()  # Else all pieces could be in memory at once.
        return jax.make_array_from_single_device_arrays(like.shape, sharding, list(made.values()))

    paths = iter(by_path(ring))
    return jax.tree.map(lambda like: read(next(paths), like), ring)


def hash_ring(ring: PyTree, env_index: np.ndarray) -> dict[str, str]:
    """Computes a hash of every array as it is stored, 16 hexadecimal digits by path, on the devices that hold it.

    All processes call it together. It needs room for a few pieces on each device.

    Args:
        ring: The ring.
        env_index: [B] uint32; the order of its environments.
    """
    leaves = by_path(ring)
    mesh = next(iter(leaves.values())).sharding.mesh
    devices = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    sums = {device: [jnp.zeros(2, jnp.uint32, device=device)] * len(leaves) for device in devices}
    pending: list[jax.Array] = []
    for number, (path, leaf) in enumerate(leaves.items()):
        for piece, taken in _taken(path, leaf, env_index):
            ours = sums[piece.device]
            ours[number] = ours[number] + hash_piece(taken, np.uint32(piece.stored))
            pending = [*pending, ours[number]][-_IN_FLIGHT:]
            pending[0].block_until_ready()
    by_device = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    stacked = [jnp.stack(sums[device])[None] for device in devices]
    parts = jax.make_array_from_single_device_arrays((mesh.size, len(leaves), 2), by_device, stacked)
    add: Callable[..., Any] = jax.jit(
        lambda x: jnp.sum(x, axis=0, dtype=jnp.uint32), out_shardings=NamedSharding(mesh, PartitionSpec())
    )
    return {path: to_hex(lanes) for path, lanes in zip(leaves, np.asarray(add(parts)), strict=True)}


def hash_stored(folder: epath.PathLike, path: str) -> str:
    """Computes the hash of a stored array as `hash_ring` does, a piece at a time; `ValueError` if it is missing."""
    store = ts.open(_spec(folder, path), open=True).result()
    if not store.rank:
        return to_hex(np.asarray(hash_piece(store.read().result(), np.uint32(0))))
    (size, *_), lanes = cast(tuple, store.chunk_layout.read_chunk.shape), np.zeros(2, np.uint32)
    for first in range(0, store.shape[0], size):
        piece = store[first : first + size].read().result()
        lanes += np.asarray(hash_piece(piece, np.uint32(first)))
    return to_hex(lanes)


def read_stored(folder: epath.PathLike, path: str, env: int | None = None) -> np.ndarray:
    """Reads a stored array into host memory, its environments in the order of their numbers, or one of them.

    Raises:
        ValueError: If the array is missing.
    """
    store = ts.open(_spec(folder, path), open=True).result()
    return np.asarray(store[... if env is None else env].read().result())


@functools.partial(jax.jit, static_argnums=2)
def _take_piece(shard: jax.Array, first: int, num: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(shard, first, num, axis=0)


@functools.partial(jax.jit, donate_argnums=0)
def _write_piece(shard: jax.Array, piece: jax.Array, first: int) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(shard, piece, first, axis=0)


def _taken(path: str, leaf: jax.Array, env_index: np.ndarray) -> Iterator[tuple[Piece, jax.Array]]:
    """Yields every piece of an array that this process holds, once, with a copy of it on its device."""
    shards = {shard.device: shard.data for shard in leaf.addressable_shards if shard.replica_id == 0}
    if _is_whole(path, leaf):
        for device, shard in shards.items():
            yield Piece(device, 0, 0, leaf.shape[0] if leaf.ndim else 1), jnp.copy(shard)
        return
    for piece in _pieces_of(path, leaf, env_index, shards):
        yield piece, _take_piece(shards[piece.device], piece.ours, piece.size)


def _read_ahead(store: Any, pieces: Iterator[Piece]) -> Iterator[tuple[Piece, np.ndarray]]:
    """Yields stored pieces, while the next is being read."""
    pending: list[tuple[Piece, Any]] = []
    for piece in pieces:
        pending.append((piece, store[piece.stored : piece.stored + piece.size].read()))
        if len(pending) == _IN_FLIGHT:
            ready, rows = pending.pop(0)
            yield ready, rows.result()
    for ready, rows in pending:
        yield ready, rows.result()


def _pieces_of(path: str, leaf: Any, env_index: np.ndarray, devices: Any) -> Iterator[Piece]:
    """Yields the pieces of these devices' shards of an array that is split."""
    order, size = _order_of(leaf, env_index), _piece_size(path, leaf, env_index)
    for device, index in leaf.sharding.devices_indices_map(leaf.shape).items():
        if device in devices:
            first, last, _ = index[0].indices(leaf.shape[0])
            for row in range(first, last, size):
                yield Piece(device, row - first, int(order[row]), size)


def _piece_size(path: str, leaf: Any, env_index: np.ndarray) -> int:
    """Returns the first axis of a piece: neighbours on one device, as many as `_PIECE_BYTES` hold.

    It divides every run of neighbours, so that no two devices write into one piece.
    """
    if not leaf.ndim or _is_whole(path, leaf):
        return leaf.shape[0] if leaf.ndim else 1
    num, order = leaf.shape[0], _order_of(leaf, env_index)
    begins = np.flatnonzero(np.diff(order.astype(np.int64), prepend=order[0]) != 1)
    shard = leaf.sharding.shard_shape(leaf.shape)[0]
    together = math.gcd(num, shard, *begins.tolist(), *order[begins].tolist())
    row_bytes = leaf.size * leaf.dtype.itemsize // num
    fitting = [size for size in range(1, together + 1) if together % size == 0 and size * row_bytes <= _PIECE_BYTES]
    return max(fitting, default=1)


def _order_of(leaf: Any, env_index: np.ndarray) -> np.ndarray:
    """Returns the order of an array's rows, [n]: of the environments, or of groups of neighbours."""
    group = env_index.size // leaf.shape[0]
    return env_index[::group] // group


def _is_whole(path: str, leaf: Any) -> bool:
    return not leaf.ndim or path.split("/")[0] == "counts" or path.rpartition("/")[2] == "key"


def _spec(folder: epath.PathLike, path: str) -> dict[str, Any]:
    place = f"{epath.Path(folder) / path}/"
    # A bucket's path is a URL, which tensorstore takes as it is.
    return {"driver": "zarr3", "kvstore": place if "://" in place else {"driver": "file", "path": place}}


def _metadata(leaf: Any, size: int) -> dict[str, Any]:
    chunk = (size, *leaf.shape[1:]) if leaf.ndim else ()
    grid = {"name": "regular", "configuration": {"chunk_shape": list(chunk)}}
    return {"shape": list(leaf.shape), "data_type": str(np.dtype(leaf.dtype)), "chunk_grid": grid}


def _open_checked(folder: epath.PathLike, path: str, like: jax.ShapeDtypeStruct) -> Any:
    store = ts.open(_spec(folder, path), open=True).result()
    found, expected = (tuple(store.shape), store.dtype.name), (tuple(like.shape), str(np.dtype(like.dtype)))
    if found != expected:
        raise ValueError(f"{epath.Path(folder) / path} is {found[1]}{found[0]}; expected {expected[1]}{expected[0]}.")
    return store
