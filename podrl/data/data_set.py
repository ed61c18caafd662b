"""A data set that is read: the facts of all episodes in memory, their rows on disk."""

from collections.abc import Iterator, Sequence
import dataclasses
from pathlib import Path
from typing import Any

from absl import logging
import numpy as np

from podrl.actions import ActionSpace
from podrl.config import programs
from podrl.config.config import check
from podrl.data.joining import read_joined
from podrl.data.manifest import DataSpec, Recording, describe_policy, hash_text
from podrl.data.shards import EpisodeFacts, Shard, join_facts
from podrl.data.trees import describe_structs
from podrl.types import EnvSpec

_READ_ROWS = 1 << 16  # Rows that are read at once, beside those in memory already.


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSet:
    """Recorded episodes.

    Attributes:
        folder: Its folder.
        spec: What every row has.
        recordings: Who acted.
        hash: Hash of all rows in their order, and of nothing else: a copy of the data set has the same.
        facts: Facts of all E episodes.
        shards: Its shards.
        shard: [E] int64; the number of each episode's shard.
        first_row: [E] int64; where each begins in its shard.
    """

    folder: Path
    spec: DataSpec
    recordings: Sequence[Recording]
    hash: str
    facts: EpisodeFacts
    shards: Sequence[Shard]
    shard: np.ndarray
    first_row: np.ndarray

    @property
    def num_episodes(self) -> int:
        """Number of episodes, E."""
        return len(self.facts.length)

    @property
    def num_steps(self) -> int:
        """Number of transitions."""
        return int(self.facts.length.sum())

    def read(self, episodes: np.ndarray) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Reads whole episodes in this order, some at a time.

        Yields:
            How many of them, and their rows [N, ...] by column, one episode behind the other.

        Raises:
            DataError: If a shard is damaged; the message names it.
        """
        first, ends = 0, self.first_row + self.facts.length + 1
        while first < len(episodes):
            last = first + 1  # Neighbours on the disk are read together.
            begin, end = self.first_row[episodes[first]], ends[episodes[first]]
            while last < len(episodes) and end - begin < _READ_ROWS:
                episode = episodes[last]
                if self.shard[episode] != self.shard[episodes[first]] or self.first_row[episode] != end:
                    break
                last, end = last + 1, ends[episode]
            yield last - first, self.shards[self.shard[episodes[first]]].read(int(begin), int(end))
            first = last


def open_data(folder: Path) -> DataSet:
    """Opens a data set; episodes that are added later are not seen. It logs each recording that is not complete.

    Raises:
        ConfigError: If there is no data set, or it has no episodes yet.
        DataError: If it is damaged; the message names the file.
    """
    joined = read_joined(folder)
    manifest = joined.manifest
    check(bool(manifest.shards), f"{folder} has no episodes yet. Wait until some are written.")
    for recording in manifest.recordings:
        if not recording.is_complete:
            logging.warning("%s: the recording of %s is not complete.", folder, describe_policy(recording.facts))
    placed = zip(joined.folders, manifest.shards, strict=True)
    shards = [Shard(place, manifest.spec, record) for place, record in placed]
    return DataSet(
        folder=folder,
        spec=manifest.spec,
        recordings=manifest.recordings,
        hash=hash_text("".join(record.hash for record in manifest.shards).encode()),
        facts=join_facts([shard.facts for shard in shards]),
        shards=shards,
        shard=np.repeat(np.arange(len(shards)), [record.episodes for record in manifest.shards]),
        first_row=np.concatenate([shard.facts.begin for shard in shards]),
    )


def check_suits(data: DataSet, spec: EnvSpec, *, agent: str, needs: Sequence[str] = ()) -> None:
    """Checks that an agent can learn from a data set.

    Args:
        data: The data set.
        spec: The spec of the agent's environment.
        agent: The agent's name, for messages.
        needs: What it needs of each row beside what every data set has: `behaviour`, `params_version`, `carry`. No data
            set has `carry`, the state of a recurrent core.

    Raises:
        ConfigError: If the data set is of other observations or actions, or lacks something.
    """
    found, there = data.spec.env, {"behaviour": data.spec.behaviour != (), "params_version": data.spec.has_version}
    for what in ("observation", "actions"):
        before, now = getattr(found, what), getattr(spec, what)
        verb = "is" if what == "observation" else "are"
        check(
            before == now,
            f"data.path={data.folder} is of {found.id}, whose {what} {verb} {_describe(before)}; {spec.id} has "
            f"{_describe(now)}. Name a data set of this environment, or set env.id={found.id}.",
        )
    check(
        "carry" not in needs,
        f"data.path={data.folder} has no carry, which agent.name={agent!r} needs. Data sets keep no state of a "
        "recurrent core. Start sequences from the initial carry.",
    )
    for name in needs:
        check(
            there.get(name, False),
            f"data.path={data.folder} has no {name}, which agent.name={agent!r} needs. Record it anew from runs "
            f"alone, whose agents record it: {programs.program_of('record')}.",
        )


def _describe(part: Any) -> str:
    """Describes observations by their arrays, and actions by their record."""
    return repr(part) if isinstance(part, ActionSpace) else describe_structs(part)
