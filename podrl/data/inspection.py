"""Looks into a data set: who acted how well, what it covers, and which of its shards are damaged.

Every row is read, one shard at a time, and compared with the hashes of what was written.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from podrl.actions import ContinuousActions, DiscreteActions
from podrl.data.joining import read_joined
from podrl.data.manifest import DataError, DataManifest
from podrl.data.shards import EpisodeFacts, Shard, join_facts

_POINTS = 20_000  # Rows of which a picture is drawn.


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataDetails:
    """A data set, except the rows themselves.

    Attributes:
        manifest: Its manifest.
        facts: Facts of the episodes in all shards that can be read.
        terminated: [E] bool; each of these was ended by its environment, and not cut off by a limit.
        damage: One line for each damaged shard.
        size_bytes: Bytes of its files.
        raw_bytes: Bytes of its rows before compression.
        distinct: How many of the observations differ from all others, the final ones included.
        actions: [N, ...] actions of some of the steps, evenly spaced.
        moments: Mean, deviation, least and greatest of each entry, [4, D], of every vector that is observed, by column.
            Of all transitions alike, which is what observations are to be normalised with.
        points: [N, D] observations of some of the steps, all vectors joined; None if there is no vector.
        who: [N] int64; the number of the recording that each of these steps is from.
    """

    manifest: DataManifest
    facts: EpisodeFacts
    terminated: np.ndarray
    damage: Sequence[str]
    size_bytes: int
    raw_bytes: int
    distinct: int
    actions: np.ndarray
    moments: Mapping[str, np.ndarray]
    points: np.ndarray | None
    who: np.ndarray


def inspect_data(folder: Path) -> DataDetails:
    """Reads a whole data set.

    Raises:
        ConfigError: If there is none.
        DataError: If its manifest is damaged. Damage to a shard is in the result.
    """
    joined = read_joined(folder)
    manifest = joined.manifest
    tally = _Tally(manifest)
    damage = []
    for place, record in zip(joined.folders, manifest.shards, strict=True):
        try:
            shard = Shard(place, manifest.spec, record)
            rows = shard.read_checked()
        except DataError as error:
            damage.append(str(error))
            continue
        tally.add(shard.facts, rows)
    return DataDetails(
        manifest=manifest,
        damage=damage,
        size_bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        **tally.results(),
    )


def observation_moments(rows: np.ndarray) -> np.ndarray:
    """Returns count, sum and sum of squares, and least and greatest of each entry, [5, D] float64, of rows [N, D]."""
    wide = rows.reshape(len(rows), -1).astype(np.float64)
    return np.stack([np.full(wide.shape[1], len(wide)), wide.sum(0), (wide**2).sum(0), wide.min(0), wide.max(0)])


class _Tally:
    """Adds up the shards."""

    def __init__(self, manifest: DataManifest):
        self._spec = manifest.spec
        total = sum(shard.rows for shard in manifest.shards)
        self._every = total // _POINTS + 1
        self._facts: list[EpisodeFacts] = []
        self._terminated: list[np.ndarray] = []
        self._hashes: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []
        self._points: list[np.ndarray] = []
        self._who: list[np.ndarray] = []
        self._moments: dict[str, np.ndarray] = {}
        self._raw_bytes = 0

    def add(self, facts: EpisodeFacts, rows: Mapping[str, np.ndarray]) -> None:
        """Adds all rows of a shard."""
        final = facts.begin + facts.length
        is_step = np.ones(len(rows["reward"]), bool)
        is_step[final] = False
        self._facts.append(facts)
        self._terminated.append(rows["discount"][final - 1] == 0)
        self._raw_bytes += sum(column.nbytes for column in rows.values())
        observed = [column for name, column in rows.items() if name.partition("/")[0] == "observation"]
        joined = [np.ascontiguousarray(column).reshape(len(column), -1).view(np.uint8) for column in observed]
        hashes = [hash(b"".join(each.tobytes() for each in row)) for row in zip(*joined, strict=True)]
        self._hashes.append(np.array(hashes))
        self._actions.append(rows["action"][is_step][:: self._every])
        vectors = {name: rows[name][is_step] for name in self._vectors()}
        for name, steps in vectors.items():
            self._moments[name] = _add_moments(self._moments.get(name), observation_moments(steps))
        if vectors:
            parts = [steps[:: self._every].reshape(-(-len(steps) // self._every), -1) for steps in vectors.values()]
            self._points.append(np.concatenate(parts, axis=1).astype(np.float64))
            self._who.append(np.repeat(facts.recording, facts.length)[:: self._every])

    def results(self) -> dict[str, Any]:
        """Returns fields of `DataDetails`."""
        struct = self._spec.env.actions.struct
        return {
            "facts": join_facts(self._facts),
            "terminated": np.concatenate([np.zeros(0, bool), *self._terminated]),
            "raw_bytes": self._raw_bytes,
            "distinct": len(np.unique(np.concatenate([np.zeros(0, np.int64), *self._hashes]))),
            "actions": np.concatenate([np.zeros((0, *struct.shape), struct.dtype), *self._actions]),
            "moments": {name: _to_statistics(moments) for name, moments in self._moments.items()},
            "points": np.concatenate(self._points) if self._points else None,
            "who": np.concatenate([np.zeros(0, np.int64), *self._who]),
        }

    def _vectors(self) -> list[str]:
        columns = self._spec.columns.items()
        return [name for name, x in columns if name.partition("/")[0] == "observation" and len(x.shape) < 2]


def _add_moments(before: np.ndarray | None, more: np.ndarray) -> np.ndarray:
    if before is None:
        return more
    return np.stack([*(before[:3] + more[:3]), np.minimum(before[3], more[3]), np.maximum(before[4], more[4])])


def _to_statistics(moments: np.ndarray) -> np.ndarray:
    count, total, squares, least, greatest = moments
    mean = total / count
    return np.stack([mean, np.sqrt(np.maximum(squares / count - mean**2, 0)), least, greatest])


def principal_plane(points: np.ndarray) -> np.ndarray:
    """Projects points [N, D], scaled to deviation 1, onto the two directions in which they vary most, [N, 2]."""
    deviation = points.std(0)
    scaled = (points - points.mean(0)) / np.where(deviation > 0, deviation, 1)
    _, directions = np.linalg.eigh(scaled.T @ scaled / len(scaled))
    directions = directions[:, ::-1][:, :2]
    directions = directions * np.sign(directions[np.abs(directions).argmax(0), np.arange(directions.shape[1])])
    projected = scaled @ directions
    return projected if projected.shape[1] == 2 else np.pad(projected, ((0, 0), (0, 1)))


def describe_actions(details: DataDetails) -> str:
    """Returns what the actions cover, in one line."""
    actions, space = details.actions, details.manifest.spec.env.actions
    if not len(actions):
        return "none"
    if isinstance(space, DiscreteActions):
        shares = np.bincount(actions, minlength=space.num) / len(actions)
        most = np.argsort(-shares, kind="stable")[:8]
        listed = ", ".join(f"{action}: {shares[action]:.1%}" for action in most)
        return f"{int((shares > 0).sum())} of {space.num} taken ({listed}{', ...' if space.num > 8 else ''})"
    flat = actions.reshape(len(actions), -1)
    text = f"{flat.shape[1]} entries, deviation {flat.std(0).min():.2f} to {flat.std(0).max():.2f}"
    if isinstance(space, ContinuousActions):
        text += f", {(np.abs(flat) > 0.99).mean():.1%} at a bound"
    return text
