"""Writes episodes into a data set, of which a killed process loses only what it had not committed.

A shard is written under another name, synced, renamed, and only then named in the manifest, which is replaced as a
whole. The next writer deletes what no manifest names and appends behind what was committed.
"""

from collections.abc import Mapping
import dataclasses
import fcntl
from importlib import metadata
import os
from pathlib import Path
import re
import shutil
from types import TracebackType
from typing import Any

import numpy as np

from podrl.config.config import ConfigError
from podrl.data.durable import rename_durably
from podrl.data.fitting import check_new, check_same_rows, check_same_settings
from podrl.data.manifest import (
    DATA_MANIFEST,
    DataManifest,
    DataSpec,
    Recording,
    ShardRecord,
    describe_policy,
    read_manifest,
    write_manifest,
)
from podrl.data.recorded import RecordedEpisode, check_finite_episode, episode_rows
from podrl.data.shards import make_facts, write_shard

SHARD_BYTES = 32 << 20  # Before compression. While a shard is written, about three times as much is in memory.
_SHARD = re.compile(r"shard-\d{6,}(\.tmp)?")
_LIBRARIES = ("podrl", "jax", "numpy", "gymnasium", "tensorstore")


class DataWriter:
    """Appends to a data set; the only one that does, as long as it is open.

    Attributes:
        folder: Its folder.
        manifest: What it holds.
    """

    def __init__(self, folder: Path, spec: DataSpec, *, shard_bytes: int = SHARD_BYTES):
        """Opens a data set, or makes a new one.

        Args:
            folder: Its folder, which may be missing or empty.
            spec: What every row has.
            shard_bytes: Bytes of rows, before compression, with which a shard is committed.

        Raises:
            ConfigError: If the folder holds something else, other rows, or episodes of another environment or other
                settings of it, or another process writes into it.
            DataError: If its manifest is damaged.
        """
        self.folder, self._shard_bytes = folder, shard_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise ConfigError(f"{folder} cannot be written ({error.strerror or error}). Name another folder.") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_new = not (folder / DATA_MANIFEST).exists()  # Only under the lock: another may just be making it.
            check_new(folder, is_new)
            manifest = DataManifest(spec=spec, versions=_versions()) if is_new else read_manifest(folder)
            check_same_rows(folder, manifest.spec, spec)
            check_same_settings(folder, manifest.spec.settings, spec.settings)
            self.manifest = manifest
            self._clear()
        except BaseException as error:
            os.close(self._lock)
            if isinstance(error, BlockingIOError):
                raise ConfigError(
                    f"{folder} is being written by another process. Wait, or name another folder."
                ) from None
            raise
        self._pending: list[RecordedEpisode] = []
        self._pending_bytes, self._recording, self._there, self._update = 0, -1, 0, -1

    def begin(self, facts: Mapping[str, Any]) -> int | None:
        """Begins a recording, or resumes one that was cut short, with the same facts.

        Args:
            facts: What decides its episodes, plain values.

        Returns:
            How many of its episodes are there already: `add` leaves these out, so all are added anew. None if the
            recording is complete.

        Raises:
            ConfigError: If another recording was cut short.
        """
        self.commit()
        recordings = list(self.manifest.recordings)
        known = [number for number, recording in enumerate(recordings) if recording.facts == facts]
        if known and recordings[known[0]].is_complete:
            return None
        unfinished = [number for number, each in enumerate(recordings) if not each.is_complete]
        if unfinished and known != unfinished:
            raise ConfigError(
                f"{self.folder} holds a recording that was cut short: {_describe(recordings[unfinished[0]].facts)}. "
                "Repeat its command first, or name another folder."
            )
        if not known:
            recordings.append(Recording(facts=dict(facts)))
            self.manifest = dataclasses.replace(self.manifest, recordings=tuple(recordings))
            write_manifest(self.folder, self.manifest)
        self._recording = known[0] if known else len(recordings) - 1
        shards = self.manifest.shards
        self._there = there = sum(shard.episodes for shard in shards if shard.recording == self._recording)
        return there

    def resume(self, facts: Mapping[str, Any], update: int) -> None:
        """Begins the recording of a run that trains, or resumes it where the run does.

        What it recorded after that update is dropped, since the run makes it again. All that is added is new.

        Args:
            facts: What tells the run from others, plain values.
            update: Updates that the run has done.

        Raises:
            ConfigError: If another recording was cut short.
        """
        own = {number for number, recording in enumerate(self.manifest.recordings) if recording.facts == facts}
        shards = tuple(each for each in self.manifest.shards if each.recording not in own or each.update <= update)
        recordings = tuple(
            dataclasses.replace(recording, is_complete=recording.is_complete and number not in own)
            for number, recording in enumerate(self.manifest.recordings)
        )
        if (shards, recordings) != (tuple(self.manifest.shards), tuple(self.manifest.recordings)):
            self.manifest = dataclasses.replace(self.manifest, shards=shards, recordings=recordings)
            write_manifest(self.folder, self.manifest)
            self._clear()
        self.begin(facts)
        self._there = 0

    def add(self, episode: RecordedEpisode, update: int = -1) -> None:
        """Adds the next episode of the recording, unless it is there; commits a shard once there are enough.

        An episode without a step is left out. `update` is that of `ShardRecord`.

        Raises:
            ConfigError: If it has numbers that are not finite.
        """
        if not episode.length:
            return
        if self._there:
            self._there -= 1
            return
        check_finite_episode(episode, describe_policy(self.manifest.recordings[self._recording].facts))
        self._pending.append(episode)
        self._update = update
        self._pending_bytes += episode.size_bytes
        if self._pending_bytes >= self._shard_bytes:
            self.commit()

    def commit(self) -> None:
        """Commits what was added; it survives whatever happens to the process afterwards."""
        if not self._pending:
            return
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        spec, shards = self.manifest.spec, self.manifest.shards
        name = f"shard-{1 + max((int(shard.name[6:]) for shard in shards), default=-1):06d}"
        facts = make_facts(
            {
                "length": [episode.length for episode in pending],
                "episode_return": [float(np.sum(episode.reward, dtype=np.float64)) for episode in pending],
                "recording": [self._recording] * len(pending),
                "seed": [episode.seed for episode in pending],
                "number": [episode.number for episode in pending],
                "is_whole": [episode.is_whole for episode in pending],
            }
        )
        rows = [episode_rows(episode, spec) for episode in pending]
        columns = {column: np.concatenate([each[column] for each in rows]) for column in spec.columns}
        written = self.folder / f"{name}.tmp"
        hashed = write_shard(written, spec, columns, facts)
        rename_durably(written, self.folder / name)
        record = ShardRecord(
            name=name,
            recording=self._recording,
            episodes=len(pending),
            rows=len(columns["reward"]),
            hash=hashed,
            update=self._update,
        )
        self.manifest = dataclasses.replace(self.manifest, shards=(*shards, record))
        write_manifest(self.folder, self.manifest)

    def end(self) -> None:
        """Commits the rest of the recording, which is complete."""
        self.commit()
        recordings = list(self.manifest.recordings)
        recordings[self._recording] = dataclasses.replace(recordings[self._recording], is_complete=True)
        self.manifest = dataclasses.replace(self.manifest, recordings=tuple(recordings))
        write_manifest(self.folder, self.manifest)

    def close(self) -> None:
        """Leaves the data set to others; what was not committed is dropped."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> "DataWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _clear(self) -> None:
        """Deletes shards that a killed writer did not commit."""
        known = {shard.name for shard in self.manifest.shards}
        for entry in list(os.scandir(self.folder)):
            if _SHARD.fullmatch(entry.name) and entry.name not in known:
                shutil.rmtree(entry.path)


def _describe(facts: Mapping[str, Any]) -> str:
    """Returns which recording it is, as its command says it."""
    return " ".join([describe_policy(facts), *(f"{name}={facts[name]}" for name in ("steps", "seed") if name in facts)])


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in _LIBRARIES}
