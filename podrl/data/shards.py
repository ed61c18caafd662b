"""Shards: whole episodes, one behind the other, as one zarr3 array for each column.

An episode of L steps has L + 1 rows, aligned as in `podrl.types`: row t holds what the agent saw, what it did and what
that action earned; the last row holds the final observation, and an action that was not made, reward 0 and discount 1.
So rows of several episodes are rows of a trajectory, and a truncation bootstraps from the true final observation.

Each array is one file of compressed chunks, each with a checksum that is verified whenever the chunk is read. Beside
the arrays, `shard.json` has the facts of each episode, and a hash of every array.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from podrl.data.durable import write_durably
from podrl.data.manifest import DataError, DataSpec, ShardRecord, hash_text

SHARD = "shard.json"
_CHUNK_BYTES = 256 << 10  # Before compression: an episode of small observations is read alone in a millisecond.


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpisodeFacts:
    """The facts of E episodes.

    Attributes:
        length: [E] int64; steps.
        episode_return: [E] float64; the undiscounted sum of its rewards.
        recording: [E] int64; the number of its recording in the manifest.
        seed: [E] int64; its environment's seed, -1 if it is not known.
        number: [E] int64; which of its environment's episodes it is, from 0.
        is_whole: [E] bool; it begins with a reset, and was terminated or truncated by its environment. The return of
            any other is that of a part.
    """

    length: np.ndarray
    episode_return: np.ndarray
    recording: np.ndarray
    seed: np.ndarray
    number: np.ndarray
    is_whole: np.ndarray

    @property
    def begin(self) -> np.ndarray:
        """[E] int64; each episode's first row, if they lie one behind the other."""
        return np.cumsum(self.length + 1) - self.length - 1

    def take(self, episodes: Any) -> "EpisodeFacts":
        """Returns the facts of some episodes."""
        return EpisodeFacts(**{name: value[episodes] for name, value in vars(self).items()})


_DTYPES = {
    "length": np.int64,
    "episode_return": np.float64,
    "recording": np.int64,
    "seed": np.int64,
    "number": np.int64,
    "is_whole": np.bool_,
}


def make_facts(values: Mapping[str, Sequence[Any]]) -> EpisodeFacts:
    """Makes the facts of lists of plain values."""
    return EpisodeFacts(**{name: np.asarray(values[name], dtype) for name, dtype in _DTYPES.items()})


def join_facts(parts: Sequence[EpisodeFacts]) -> EpisodeFacts:
    """Returns the facts of all episodes, one part behind the other."""
    parts = parts or [make_facts({name: [] for name in _DTYPES})]
    return EpisodeFacts(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in _DTYPES})


def write_shard(folder: Path, spec: DataSpec, columns: Mapping[str, np.ndarray], facts: EpisodeFacts) -> str:
    """Writes the files of a shard, all of them synced, and returns the hash of its `shard.json`.

    Args:
        folder: The new folder.
        spec: What every row has.
        columns: [N, ...] rows by column.
        facts: Facts of the episodes, one behind the other.
    """
    folder.mkdir()
    hashes = {}
    for name in spec.columns:
        rows = np.ascontiguousarray(columns[name])
        # Otherwise chunks of zeros would not be stored, and look like missing ones.
        how = {"metadata": _metadata(rows), "store_data_equal_to_fill_value": True}
        store = ts.open(_location(folder, name) | how, create=True).result()
        store.write(rows).result()
        hashes[name] = hash_text(rows.view(np.uint8).data if rows.size else b"")
    content = {
        "columns": hashes,
        "episodes": {name: getattr(facts, name).tolist() for name in _DTYPES if name != "recording"},
    }
    text = (json.dumps(content) + "\n").encode()
    write_durably(folder / SHARD, text)
    return hash_text(text)


class Shard:
    """A shard that is read.

    Attributes:
        facts: The facts of its episodes.
    """

    def __init__(self, folder: Path, spec: DataSpec, record: ShardRecord):
        """Reads its `shard.json` and opens no array.

        Raises:
            DataError: If it is damaged; the message names it.
        """
        self._folder, self._spec, self._record = folder / record.name, spec, record
        try:
            text = (self._folder / SHARD).read_bytes()
        except OSError as error:
            raise self._damage(f"{SHARD} cannot be read ({error.strerror or error})") from None
        if hash_text(text) != record.hash:
            raise self._damage(f"the hash of {SHARD} is not that of what was written")
        content = json.loads(text)
        self.facts = make_facts({**content["episodes"], "recording": [record.recording] * record.episodes})
        self._hashes: dict[str, str] = content["columns"]
        self._stores: dict[str, Any] = {}  # Opened when they are first read, which takes a millisecond each.

    def read(self, first: int, last: int) -> dict[str, np.ndarray]:
        """Reads rows from `first` up to `last`, [last - first, ...] by column.

        Raises:
            DataError: If a chunk's checksum does not fit, or something is missing; the message names the shard.
        """
        reads = {name: self._open(name, struct)[first:last].read() for name, struct in self._spec.columns.items()}
        rows = {}
        for name, read in reads.items():
            try:
                rows[name] = np.asarray(read.result())
            except ValueError as error:
                raise self._damage(f"{name}: {_first_line(error)}") from None
        return rows

    def _open(self, name: str, struct: Any) -> Any:
        """Returns the array of a column."""
        if name not in self._stores:
            try:
                store = ts.open(_location(self._folder, name) | {"fill_missing_data_reads": False}).result()
            except ValueError as error:
                raise self._damage(f"{name}: {_first_line(error)}") from None
            found = f"{store.dtype.name}{list(store.shape)}"
            wanted = f"{np.dtype(struct.dtype).name}{[self._record.rows, *struct.shape]}"
            if found != wanted:
                raise self._damage(f"{name} is {found}, expected {wanted}")
            self._stores[name] = store
        return self._stores[name]

    def read_checked(self) -> dict[str, np.ndarray]:
        """Reads every row, and compares each array with the hash of what was written.

        Raises:
            DataError: If one differs; the message names it.
        """
        columns = self.read(0, self._record.rows)
        for name, rows in columns.items():
            if hash_text(np.ascontiguousarray(rows).view(np.uint8).data) != self._hashes[name]:
                raise self._damage(f"{name}: the hash is not that of what was written")
        return columns

    def _damage(self, reason: str) -> DataError:
        return DataError(f"Shard {self._record.name} in {self._folder.parent} is damaged: {reason}.")


def _location(folder: Path, name: str) -> dict[str, Any]:
    return {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder / name}/"}}


def _metadata(rows: np.ndarray) -> dict[str, Any]:
    """Returns the metadata of an array: all chunks in one file, in rows of about `_CHUNK_BYTES`."""
    chunk = max(1, min(len(rows), _CHUNK_BYTES * len(rows) // max(1, rows.nbytes)))
    in_file = -(-len(rows) // chunk) * chunk
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    # LZ4 gains nothing on frames, and Zstandard costs more than it gains on floats.
    name = "zstd" if rows.itemsize == 1 else "lz4"
    how = {"cname": name, "clevel": 1, "shuffle": "shuffle", "typesize": rows.itemsize, "blocksize": 0}
    codecs = [little, {"name": "blosc", "configuration": how}, {"name": "crc32c"}]
    sharding = {
        "chunk_shape": [chunk, *rows.shape[1:]],
        "codecs": codecs,
        "index_codecs": [little, {"name": "crc32c"}],
    }
    return {
        "shape": list(rows.shape),
        "data_type": rows.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [in_file, *rows.shape[1:]]}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].partition(" [")[0].rstrip(".")
