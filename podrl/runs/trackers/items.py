"""What of a run goes to a tracker, read from the files in its folder and never from the process that trains.

It goes in *items*: a row of an update, a row of an evaluation, a checkpoint, a picture or video. Each has a mark, which
grows among the items of its kind, and takes it along as one of its numbers. So the tracker itself knows how far it got,
and an item with a mark up to that is skipped: where an export is repeated, was interrupted, or where a resumed run
makes rows again.
"""

from collections.abc import Mapping
import dataclasses
import datetime
from pathlib import Path
import re
import time
from typing import Any

from etils import epath

from podrl.config.config import check
from podrl.config.renamed import with_new_names
from podrl.runs import heartbeat
from podrl.runs.checkpoint_arrays import whole_steps
from podrl.runs.checkpoint_errors import CheckpointError
from podrl.runs.checkpoint_facts import checkpoint_folder
from podrl.runs.inspection import list_checkpoints
from podrl.runs.new_rows import NewRows
from podrl.runs.records import name_seeds, read_json, read_manifests
from podrl.runs.run_id import find_run_id
from podrl.runtime.process_identity import has_ended
from podrl.telemetry.metrics_file import Row, is_number
from podrl.telemetry.rates import RATE_KEY, WALL_KEY

MARKS = {name: f"{name}/learner_steps" for name in ("evaluate", "checkpoint")} | {"update": "learner_steps"}
_MEDIA = re.compile(r"[\w.-]+\.(gif|mp4|png)")
_AXES = ("env_steps", "frames")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
    """One thing that goes to a tracker.

    Attributes:
        kind: `update`, `evaluate`, `checkpoint`, or `files/NAME`.
        mark: The learner step; of a file its time, in seconds.
        values: Numbers by name, with the mark under the name of `mark_key`.
        time_s: When it was, in seconds since 1970, the same whenever it is read.
        file: The picture or video.
    """

    kind: str
    mark: int
    values: Mapping[str, float]
    time_s: float
    file: Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """A run as a tracker shows it.

    Attributes:
        run_id: Its id.
        title: Its name for people, which stays when the folder moves.
        folder: The name of its folder.
        config: The resolved config.
        manifests: One for each start.
        axis: The counter on the horizontal axis: `env_steps`, or `learner_steps` of a run from a data set.
    """

    run_id: str
    title: str
    folder: str
    config: Mapping[str, Any]
    manifests: list[dict[str, Any]]
    axis: str


class RunFiles:
    """Reads a run's folder, again and again while the run is under way.

    Attributes:
        run: The run as a tracker shows it.
        marks: How far the tracker got, by kind; the caller sets it.
    """

    def __init__(self, folder: str) -> None:
        """Reads config and manifests.

        Raises:
            ConfigError: If the folder is not that of a run, or a file in it is broken.
        """
        self._folder = epath.Path(folder)
        run_id = find_run_id(self._folder)
        hint = name_seeds(self._folder)
        check(
            run_id is not None and (self._folder / "config.json").exists(),
            f"{folder} is not the folder of a run: it has no config.json or no manifest.json.{hint}",
        )
        config = with_new_names(read_json(self._folder / "config.json"))
        self._updates, self._env_steps = config.get("total_updates", 0), config.get("total_env_steps", 0)
        self.run = TrackedRun(
            run_id=str(run_id),
            title=f"{config['name']}-{run_id}",
            folder=self._folder.name,
            config=config,
            manifests=read_manifests(self._folder),
            axis="learner_steps" if self._updates else "env_steps",
        )
        self.marks: dict[str, int] = {}
        self.is_finished = False
        self._rows = NewRows(self._folder / "metrics.jsonl")
        self._begun_s = _seconds(self.run.manifests[0].get("started", ""))

    def read(self) -> list[Item]:
        """Returns what is new, and what the tracker does not have; it counts as exported from then on.

        Raises:
            ConfigError: If another run has begun in the folder since `__init__`.
        """
        found = []
        items = [*map(self._of_row, self._rows.read()), *self._checkpoints(), *self._files()]
        self._check_run()  # Afterwards: a run's manifest is there before its rows.
        for item in items:
            if item.mark > self.marks.get(item.kind, -1):
                self.marks[item.kind] = item.mark
                found.append(item)
        return found

    def is_under_way(self) -> bool:
        """Returns whether a process trains in the folder, as far as that can be seen; never of an object store."""
        if "://" in str(self._folder) or (seen := heartbeat.see(Path(self._folder))) is None:
            return False
        ended = has_ended(seen.owner)
        return time.time() - seen.touched_ns / 1e9 < heartbeat.GONE_S if ended is None else not ended

    def _check_run(self) -> None:
        now = find_run_id(self._folder)  # None while `--start_anew` deletes the run's files.
        check(
            now in (None, self.run.run_id),
            f"{self._folder} now has another run, {now}: {self.run.run_id} was deleted by --start_anew. What the "
            "tracker has of it stays. The same command exports the other run.",
        )

    def _of_row(self, row: Row) -> Item:
        kind, mark = "update" if RATE_KEY in row else "evaluate", int(row["learner_steps"])
        if kind == "update":
            total, done = (self._updates, mark) if self._updates else (self._env_steps, row.get("env_steps", 0))
            self.is_finished = done >= total
        named = {name: value for name, value in row.items() if kind == "update" or name.startswith((*_AXES, kind))}
        numbers = {name: value for name, value in named.items() if is_number(value) and not isinstance(value, bool)}
        time_s = self._begun_s + float(row.get(WALL_KEY) or 0.0)
        return Item(kind=kind, mark=mark, values={**numbers, MARKS[kind]: mark}, time_s=time_s)

    def _checkpoints(self) -> list[Item]:
        """Checkpoints that the tracker lacks; one that the run deletes meanwhile is left out."""
        if max(whole_steps(self._folder), default=-1) <= self.marks.get("checkpoint", -1):
            return []
        items = []
        try:
            for entry in list_checkpoints(self._folder):
                made_s = float((checkpoint_folder(self._folder) / str(entry.step)).stat().mtime)
                facts = {"env_steps": entry.env_steps, "checkpoint/return": entry.episode_return}
                facts |= {"checkpoint/size_bytes": entry.size_bytes, "checkpoint/made_s": made_s}
                numbers = {name: value for name, value in facts.items() if value is not None}
                mark = {MARKS["checkpoint"]: entry.step}
                items.append(Item(kind="checkpoint", mark=entry.step, values={**numbers, **mark}, time_s=made_s))
        except (CheckpointError, OSError):
            return []
        return items

    def _files(self) -> list[Item]:
        """Pictures and videos in the folder, those that were changed since among them."""
        if "://" in str(self._folder):
            return []
        items = []
        for path in sorted(Path(self._folder).iterdir()):
            if _MEDIA.fullmatch(path.name) and path.stat().st_size:
                made_s = int(path.stat().st_mtime)
                kind = f"files/{path.name}"
                items.append(Item(kind=kind, mark=made_s, values={kind: made_s}, time_s=made_s, file=path))
        return items


def mark_key(kind: str) -> str:
    """Returns the name of the number that has the marks of a kind."""
    return MARKS.get(kind, kind)


def read_marks(numbers: Mapping[str, Any]) -> dict[str, int]:
    """Returns how far a tracker got, from the newest numbers that it has by name."""
    kinds = [*MARKS, *(name for name in numbers if name.startswith("files/"))]
    return {kind: int(numbers[mark_key(kind)]) for kind in kinds if is_number(numbers.get(mark_key(kind)))}


def _seconds(started: str) -> float:
    """Returns the time of a manifest in seconds since 1970; 0 if it has none."""
    try:
        return datetime.datetime.fromisoformat(started).timestamp()
    except ValueError:
        return 0.0
