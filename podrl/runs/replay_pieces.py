"""A replay ring on disk, piece by piece under the numbers of its environments.

Every array [B, ...] is one zarr3 array whose first axis is the environment's index in the job, so that a ring is read
onto any number of devices, whatever the order of their environments. A piece is some environments of one group. Only a
few pieces are in host memory at a time, and the host never has a view of an array of the ring itself, which would make
the next update copy it.
"""

from collections.abc import Iterator
import functools
from typing import Any

from etils import epath
import jax
from jax import numpy as jnp
import numpy as np
import tensorstore as ts

from podrl.runs.state_arrays import by_path
from podrl.types import PyTree

_PIECE_BYTES = 32 << 20  # Smaller only where one environment is larger.


def create_pieces(folder: epath.PathLike, ring: PyTree, groups: int) -> None:
    """Creates the arrays of a ring in a folder; called by one process, before any writes.

    Args:
        folder: The folder.
        ring: The ring, or its `jax.ShapeDtypeStruct`s.
        groups: Groups of the ring, which divide the first axis of every array that has one.

    Raises:
        ValueError: If an array is there already.
    """
    for path, leaf in by_path(ring).items():
        ts.open(_spec(folder, path) | {"metadata": _metadata(leaf, groups)}, create=True).result()


def write_pieces(folder: epath.PathLike, ring: PyTree, groups: int) -> None:
    """Writes what this process's devices hold of a ring; returns when it is written and the ring may be donated.

    Args:
        folder: The folder, in which one process has created the arrays.
        ring: The ring, with its `env_index`.
        groups: Groups of the ring.
    """
    numbers = _group_numbers(ring.env_index, groups)
    for path, leaf in by_path(ring).items():
        store = ts.open(_spec(folder, path), open=True).result()
        for shard in leaf.addressable_shards:
            if shard.replica_id != 0:
                continue
            if not leaf.ndim:
                store.write(np.asarray(jnp.copy(shard.data))).result()
                continue
            size, step = leaf.shape[0] // groups, _envs_of_piece(leaf, groups)
            pending: list[Any] = []
            for ours, stored in _pieces(numbers[shard.device], size, step):
                piece = np.asarray(_take_piece(shard.data, ours, step))
                pending = [*pending, store[stored : stored + step].write(piece)][-2:]
                pending[0].result()
            for write in pending:
                write.result()


def read_pieces(folder: epath.PathLike, ring: PyTree, env_index: np.ndarray, groups: int) -> PyTree:
    """Reads a ring onto devices that have its environments in another order.

    Args:
        folder: The folder.
        ring: `jax.ShapeDtypeStruct`s of the ring, with shardings.
        env_index: [B] uint32; the order of the environments in a batch that these devices join.
        groups: Groups of the ring.

    Raises:
        ValueError: If an array is missing, or of another shape or type; the message names it.
    """

    def read(path: str, like: jax.ShapeDtypeStruct) -> jax.Array:
        sharding: Any = like.sharding
        store = _open_checked(folder, path, like)
        shards = []
        for device, index in sharding.addressable_devices_indices_map(like.shape).items():
            if not like.shape:
                shards.append(jax.device_put(np.asarray(store.read().result()), device))
                continue
            size, step = like.shape[0] // groups, _envs_of_piece(like, groups)
            first, last, _ = index[0].indices(like.shape[0])
            group_size = env_index.size // groups
            numbers = env_index[first // size * group_size : last // size * group_size : group_size] // group_size
            shard = jnp.zeros((last - first, *like.shape[1:]), like.dtype, device=device)
            for ours, stored in _pieces(numbers, size, step):
                piece = store[stored : stored + step].read().result()
                shard = _write_piece(shard, jax.device_put(piece, device), ours)
                shard.block_until_ready()  # Else all pieces could be in memory at once.
            shards.append(shard)
        return jax.make_array_from_single_device_arrays(like.shape, sharding, shards)

    paths = iter(by_path(ring))
    return jax.tree.map(lambda like: read(next(paths), like), ring)


@functools.partial(jax.jit, static_argnums=2)
def _take_piece(shard: jax.Array, first: int, num: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(shard, first, num, axis=0)


@functools.partial(jax.jit, donate_argnums=0)
def _write_piece(shard: jax.Array, piece: jax.Array, first: int) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(shard, piece, first, axis=0)


def _pieces(numbers: np.ndarray, size: int, step: int) -> Iterator[tuple[int, int]]:
    """Yields where each piece begins on the device and in the stored array, for groups of these numbers."""
    for position, number in enumerate(numbers.tolist()):
        for env in range(0, size, step):
            yield position * size + env, number * size + env


def _group_numbers(env_index: jax.Array, groups: int) -> dict[jax.Device, np.ndarray]:
    """Returns the numbers of the groups that each of this process's devices holds, in its order."""
    size = env_index.shape[0] // groups
    return {shard.device: np.asarray(jnp.copy(shard.data))[::size] // size for shard in env_index.addressable_shards}


def _envs_of_piece(leaf: Any, groups: int) -> int:
    """Returns the first axis of a piece: the largest divisor of a group's share that has at most `_PIECE_BYTES`."""
    share = leaf.shape[0] // groups
    size_bytes = leaf.size * leaf.dtype.itemsize // leaf.shape[0]
    fitting = [num for num in range(1, share + 1) if share % num == 0 and num * size_bytes <= _PIECE_BYTES]
    return max(fitting, default=1)


def _spec(folder: epath.PathLike, path: str) -> dict[str, Any]:
    place = f"{epath.Path(folder) / path}/"
    # A bucket's path is a URL, which tensorstore takes as it is.
    return {"driver": "zarr3", "kvstore": place if "://" in place else {"driver": "file", "path": place}}


def _metadata(leaf: Any, groups: int) -> dict[str, Any]:
    chunk = (_envs_of_piece(leaf, groups), *leaf.shape[1:]) if leaf.ndim else ()
    grid = {"name": "regular", "configuration": {"chunk_shape": list(chunk)}}
    return {"shape": list(leaf.shape), "data_type": str(np.dtype(leaf.dtype)), "chunk_grid": grid}


def _open_checked(folder: epath.PathLike, path: str, like: jax.ShapeDtypeStruct) -> Any:
    store = ts.open(_spec(folder, path), open=True).result()
    found, expected = (tuple(store.shape), store.dtype.name), (tuple(like.shape), str(np.dtype(like.dtype)))
    if found != expected:
        raise ValueError(f"{epath.Path(folder) / path} is {found[1]}{found[0]}; expected {expected[1]}{expected[0]}.")
    return store
