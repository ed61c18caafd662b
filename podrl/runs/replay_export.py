"""Writes the replay of a checkpoint as a data set, episode by episode and one environment at a time.

The oldest and the newest episode of an environment are usually parts, and are marked as such: their returns are no
returns of episodes. So are those that ended where the run may have reopened its environments.
"""

from collections.abc import Iterator
import dataclasses
import itertools
import json
from pathlib import Path

from etils import epath
import jax
import numpy as np

from podrl.config.config import ConfigError
from podrl.data.manifest import DataSpec, hash_text
from podrl.data.recorded import RecordedEpisode
from podrl.data.trees import from_columns, to_columns
from podrl.data.writer import DataWriter
from podrl.replay.tiles import from_tiles
from podrl.runs.checkpoint_errors import reading
from podrl.runs.checkpoint_facts import name_of, read_facts
from podrl.runs.checkpoint_replay import damaged_replay, replay_folder
from podrl.runs.replay_pieces import hash_stored, read_stored
from podrl.runs.replay_steps import RingSteps, read_ring_steps
from podrl.runs.state_arrays import by_path
from podrl.types import EnvSpec, PyTree


def export_replay(workdir: epath.PathLike, step: int, folder: Path, spec: EnvSpec, *, agent: str) -> int:
    """Appends the episodes in the replay that a checkpoint has to a data set, and returns how many it has then.

    Args:
        workdir: The run's folder.
        step: The checkpoint's step.
        folder: The data set's folder.
        spec: The spec of the run's environment.
        agent: The name of the run's agent.

    Raises:
        ConfigError: If it is a replay of a kind that is not known.
        CheckpointError: If it is damaged.
        DataError: If the data set is.
    """
    facts, ring = read_facts(workdir, step), replay_folder(workdir, step)
    records = facts.replay or {}
    with reading(name_of(workdir, step)):
        for path, record in records.items():
            if hash_stored(ring, path) != record.hash:
                raise damaged_replay(workdir, step, path)
        found = read_ring_steps(ring, records, facts.config or {})
    if found is None:
        raise ConfigError(f"--from_replay: the replay of checkpoint {step} in {workdir} is of another kind.")
    exporter = _Exporter(ring, list(records), spec, found[1])
    with DataWriter(folder, exporter.spec) as writer:
        run = {"run": Path(str(workdir)).name, "agent": agent, "update": step}
        hashed = hash_text(json.dumps({path: record.hash for path, record in records.items()}, sort_keys=True).encode())
        recording = {"policy": "replay", **run, "env_steps": facts.counters.env_steps, "replay": hashed}
        if writer.begin(recording) is not None:
            for episode in exporter.episodes():
                writer.add(episode)
            writer.end()
        return sum(shard.episodes for shard in writer.manifest.shards)


@dataclasses.dataclass(frozen=True)
class _Exporter:
    """Cuts a ring's steps into episodes.

    Attributes:
        folder: The ring's folder.
        paths: Paths of its arrays.
        env: The environment's spec.
        steps: The steps.
    """

    folder: epath.Path
    paths: list[str]
    env: EnvSpec
    steps: RingSteps

    @property
    def spec(self) -> DataSpec:
        """What the rows of the data set have."""
        one = self._read("behaviour", 0, has_last=False)
        behaviour = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), one)
        return DataSpec(env=self.env, behaviour=behaviour, has_version=self.steps.version is not None)

    def episodes(self) -> Iterator[RecordedEpisode]:
        """Yields the episodes of one environment after the other; parts of at least one step too."""
        steps = self.steps
        for env, (first, ends) in enumerate(zip(steps.first, steps.ends, strict=True)):
            observation = jax.tree.map(
                lambda rows, like: np.asarray(from_tiles(rows, like.shape)),
                self._read("observation", env, has_last=True),
                self.env.observation,
            )
            action, discount, behaviour = (
                self._read(name, env, has_last=False) for name in ("action", "discount", "behaviour")
            )
            begins = np.unique([steps.overwritten, *np.flatnonzero(first), len(first)])
            for number, (begin, end) in enumerate(itertools.pairwise(begins)):
                taken = slice(begin, end - 1)  # The last row has the final observation.
                if begin >= steps.overwritten and end - 1 > begin:
                    yield RecordedEpisode(
                        observation=jax.tree.map(lambda x, rows=slice(begin, end): x[rows], observation),
                        action=action[taken],
                        reward=steps.reward[env, taken],
                        discount=discount[taken],
                        behaviour=jax.tree.map(lambda x, rows=taken: x[rows], behaviour),
                        params_version=None if steps.version is None else steps.version[env, taken],
                        number=number,
                        is_whole=bool(first[begin] and end < len(first) and ends[end - 1]),
                    )

    def _read(self, name: str, env: int, *, has_last: bool) -> PyTree:
        """Reads one field of an environment's steps, the oldest first."""
        group = f"{self.steps.group}/{name}"
        columns = to_columns(name, self.env.observation) if name == "observation" else {}
        if columns:
            paths = dict(zip(columns, by_path(self.env.observation), strict=True))
            paths = {column: f"{group}/{path}".rstrip("/") for column, path in paths.items()}
        else:
            paths = {path.partition("/")[2]: path for path in self.paths if f"{path}/".startswith(f"{group}/")}
        stored = {column: read_stored(self.folder, path, env) for column, path in paths.items()}
        return from_columns(name, {column: self.steps.arrange(x, has_last) for column, x in stored.items()})
