"""What a data set holds, as its manifest says it.

A data set is a folder: `manifest.json`, and one folder of arrays for each shard (`podrl.data.shards`). The manifest
names the shards that count. It is replaced as a whole, and only when the shard that it adds is durable.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import json
import os
from pathlib import Path
import re
from typing import Any

import jax

from podrl.actions import ActionSpace, ContinuousActions, DiscreteActions, HybridActions, MultiDiscreteActions
from podrl.config import programs
from podrl.config.config import ConfigError, check
from podrl.data.durable import unfinished, write_durably
from podrl.data.trees import structs_from_json, structs_to_json, to_columns
from podrl.types import EnvSpec, PyTree

DATA_MANIFEST = "manifest.json"
FORMAT = 1
_PROCESS = re.compile(r"process-\d+")
_KINDS = {
    "discrete": DiscreteActions,
    "multi_discrete": MultiDiscreteActions,
    "continuous": ContinuousActions,
    "hybrid": HybridActions,
}


class DataError(RuntimeError):
    """A data set is damaged: one clear line that names the file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSpec:
    """What every row of a data set has.

    Attributes:
        env: The environment's spec.
        behaviour: `jax.ShapeDtypeStruct`s of what the acting policy recorded with each action; `()` for nothing.
        has_version: Whether rows say which parameters acted.
        settings: The environment's settings by name, plain values; empty if they are not known.
    """

    env: EnvSpec
    behaviour: PyTree = ()
    has_version: bool = True
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def columns(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of one row of each column, by its name."""
        scalars = {
            "reward": "float32",
            "discount": "float32",
            **({"params_version": "int32"} if self.has_version else {}),
        }
        return {
            **to_columns("observation", self.env.observation),
            "action": self.env.actions.struct,
            **{name: jax.ShapeDtypeStruct((), dtype) for name, dtype in scalars.items()},
            **to_columns("behaviour", self.behaviour),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recording:
    """One policy that acted, or one file that was imported.

    Attributes:
        facts: What decides its episodes, plain values: the policy, its run and update, the seed, the steps asked for.
        is_complete: Whether all of its episodes are there.
    """

    facts: Mapping[str, Any]
    is_complete: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """A shard that counts.

    Attributes:
        name: Its folder.
        recording: The number of the recording that its episodes are of.
        episodes: Its number of episodes.
        rows: Its number of rows, one more for each episode than it has steps.
        hash: Hash of its `shard.json`, which holds those of its arrays.
        update: The update whose rollouts ended its last episode, of a run that recorded while it trained; else -1.
    """

    name: str
    recording: int
    episodes: int
    rows: int
    hash: str
    update: int = -1


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataManifest:
    """All that is known of a data set without a look into its shards.

    Attributes:
        spec: What every row has.
        recordings: Who acted, in the order in which they were recorded.
        shards: The shards that count.
        versions: Versions of the software that made it, by name.
    """

    spec: DataSpec
    recordings: Sequence[Recording] = ()
    shards: Sequence[ShardRecord] = ()
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)


def write_manifest(folder: Path, manifest: DataManifest) -> None:
    """Replaces the manifest, completely or not at all."""
    spec = manifest.spec
    content = {
        "format": FORMAT,
        "env_id": spec.env.id,
        "frames_per_step": spec.env.frames_per_step,
        "observation": structs_to_json(spec.env.observation),
        "actions": _actions_to_json(spec.env.actions),
        "behaviour": structs_to_json(spec.behaviour),
        "has_version": spec.has_version,
        "settings": dict(spec.settings),
        "recordings": [dataclasses.asdict(recording) for recording in manifest.recordings],
        "versions": dict(manifest.versions),
        "shards": [dataclasses.asdict(shard) for shard in manifest.shards],
    }
    content["hash"] = _hash_values(content)
    write_durably(folder / DATA_MANIFEST, (json.dumps(content, indent=1) + "\n").encode())


def read_manifest(folder: Path) -> DataManifest:
    """Reads the manifest of a data set, which may still grow.

    Raises:
        ConfigError: If there is no data set, this podrl cannot read it, or the system does not let it be read.
        DataError: If the manifest is damaged.
    """
    path = folder / DATA_MANIFEST
    try:
        lack = "there is no such folder" if not folder.is_dir() else f"it has no {DATA_MANIFEST}"
        check(
            path.exists(),
            f"{folder} is no data set: {lack}. Name one of {programs.program_of('record')} (docs/offline.md).",
        )
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror or error}).") from None
    try:
        content = json.loads(text)
        written = content.pop("hash")
        found = content["format"]
    except (ValueError, KeyError, TypeError, AttributeError):
        check(
            not (folder / "config.json").exists(),
            f"{folder} is the folder of a run, and no data set. Record one from it: {programs.program_of('record')} "
            f"--workdir {folder} --out FOLDER.",
        )
        check(
            any(folder.glob("shard-*")),
            f"{folder} is no data set: its {DATA_MANIFEST} is something else's, and it has no shards. Name one of "
            f"{programs.program_of('record')} (docs/offline.md).",
        )
        raise DataError(f"{path} is damaged: it is no manifest of a data set.") from None
    check(found == FORMAT, f"{path} is of format {found!r}; this podrl reads format {FORMAT}.")
    if written != _hash_values(content):
        raise DataError(f"{path} is damaged: its hash is not that of its content.")
    return _parse(content)


def hash_text(text: bytes | memoryview) -> str:
    """Returns a hash of 32 hexadecimal digits."""
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def is_unused_folder(folder: Path) -> bool:
    """Returns whether a folder has nothing in it.

    What a writer left that was killed in its first commit does not count, nor do folders of other processes.
    """
    left = unfinished(folder / DATA_MANIFEST).name
    return all(
        entry.is_dir() if _PROCESS.fullmatch(entry.name) else entry.name == left and entry.is_file()
        for entry in os.scandir(folder)
    )


def process_folder(folder: Path, process: int) -> Path:
    """Returns where a process of a job writes its episodes into a data set; the first writes into its own folder."""
    return folder / f"process-{process}" if process else folder


def describe_policy(facts: Mapping[str, Any]) -> str:
    """Returns who acted in a recording, in a few words."""
    if "run" in facts:
        return f"{facts['run']}@{facts['update']}" if "update" in facts else f"{facts['run']} in training"
    return str(facts.get("file", facts.get("policy", "unknown")))


def _parse(content: Mapping[str, Any]) -> DataManifest:
    env = EnvSpec(
        id=content["env_id"],
        observation=structs_from_json(content["observation"]),
        actions=_actions_from_json(content["actions"]),
        frames_per_step=content["frames_per_step"],
    )
    return DataManifest(
        spec=DataSpec(
            env=env,
            behaviour=structs_from_json(content["behaviour"]),
            has_version=content["has_version"],
            settings=content["settings"],
        ),
        recordings=tuple(Recording(**recording) for recording in content["recordings"]),
        shards=tuple(ShardRecord(**shard) for shard in content["shards"]),
        versions=content["versions"],
    )


def _hash_values(content: Mapping[str, Any]) -> str:
    return hash_text(json.dumps(content, sort_keys=True).encode())


def _actions_to_json(actions: ActionSpace) -> dict[str, Any]:
    (kind,) = (name for name, each in _KINDS.items() if type(actions) is each)
    return {"kind": kind, **dataclasses.asdict(actions)}


def _actions_from_json(values: Mapping[str, Any]) -> ActionSpace:
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    kind: Any = _KINDS[str(fields.pop("kind"))]
    return kind(**fields)
