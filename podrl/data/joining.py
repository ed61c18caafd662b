"""A data set that several processes wrote, each into a folder of its own, as one."""

from collections.abc import Sequence
import dataclasses
from pathlib import Path

from podrl.config.config import ConfigError
from podrl.data.fitting import check_same_rows
from podrl.data.manifest import (
    DATA_MANIFEST,
    DataError,
    DataManifest,
    Recording,
    ShardRecord,
    process_folder,
    read_manifest,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class JoinedManifest:
    """What a data set holds, in the folders of all processes that wrote it.

    Attributes:
        manifest: That of the whole; recordings that are alike are one, complete if all of them are.
        folders: The folder of each of its shards.
    """

    manifest: DataManifest
    folders: Sequence[Path]


def read_joined(folder: Path) -> JoinedManifest:
    """Reads the manifests of a data set, which may still grow.

    Raises:
        ConfigError: If there is no data set.
        DataError: If a manifest is damaged, or of other rows than the first.
    """
    first = read_manifest(folder)
    recordings: list[Recording] = []
    shards: list[ShardRecord] = []
    folders: list[Path] = []
    for place in _folders(folder):
        manifest = first if place == folder else read_manifest(place)
        try:
            check_same_rows(place, manifest.spec, first.spec)
        except ConfigError as error:
            raise DataError(f"{folder} is damaged: {error}") from None
        numbers = [_place(recordings, recording) for recording in manifest.recordings]
        shards += [dataclasses.replace(shard, recording=numbers[shard.recording]) for shard in manifest.shards]
        folders += [place] * len(manifest.shards)
    joined = dataclasses.replace(first, recordings=tuple(recordings), shards=tuple(shards))
    return JoinedManifest(manifest=joined, folders=folders)


def _folders(folder: Path) -> list[Path]:
    """Returns the folders of a data set: its own, and those of further processes that have written something."""
    found, process = [folder], 1
    while (process_folder(folder, process) / DATA_MANIFEST).exists():
        found.append(process_folder(folder, process))
        process += 1
    return found


def _place(recordings: list[Recording], recording: Recording) -> int:
    """Returns the number of a recording among others, to which it is added unless one of them is alike."""
    for number, other in enumerate(recordings):
        if other.facts == recording.facts:
            recordings[number] = dataclasses.replace(other, is_complete=other.is_complete and recording.is_complete)
            return number
    recordings.append(recording)
    return len(recordings) - 1
