"""Runs in trackio's local store: `trackio show` shows them, and `trackio sync` takes them to a Space."""

from collections.abc import Sequence
import datetime
from typing import Any

from podrl.runs.trackers.items import Item, TrackedRun, read_marks


def open_run(run: TrackedRun, project: str) -> "TrackioRun":
    """Finds the run in trackio's store by its id, or creates it with the first item."""
    return TrackioRun(run, project)


class TrackioRun:
    """A run in trackio, whose rows have the learner step as their step.

    Its store takes an item under an id once, so that two exports at the same time double nothing either.
    """

    def __init__(self, run: TrackedRun, project: str) -> None:
        """Reads how far the store got."""
        from trackio.sqlite_storage import SQLiteStorage

        self._store: Any = SQLiteStorage
        self._run, self._project = run, project
        newest: dict[str, Any] = {}
        for row in self._store.get_logs(project, run.title, run_id=run.run_id):
            newest |= {name: max(value, newest.get(name, value)) for name, value in row.items() if _is_mark(value)}
        self.marks = read_marks(newest)

    def write(self, items: Sequence[Item]) -> None:
        """Adds items in one transaction."""
        if not items:
            return
        self.marks |= {item.kind: item.mark for item in items}
        step = self.marks.get("update", 0)  # Of pictures and videos.
        self._store.bulk_log(
            project=self._project,
            run=self._run.title,
            run_id=self._run.run_id,
            metrics_list=[{**item.values, **self._media(item, step)} for item in items],
            steps=[step if item.file else item.mark for item in items],
            timestamps=[datetime.datetime.fromtimestamp(item.time_s, datetime.UTC).isoformat() for item in items],
            log_ids=[f"{self._run.run_id}/{item.kind}/{item.mark}" for item in items],
            config={**self._run.config, "_Group": self._run.config["name"], "folder": self._run.folder},
        )

    def close(self, *, finished: bool) -> None:
        """Does nothing: every write is a transaction."""

    def _media(self, item: Item, step: int) -> dict[str, Any]:
        """Copies a picture or video into the store, and returns what stands for it in a row."""
        import trackio

        if item.file is None:
            return {}
        kind = trackio.Image if item.file.suffix == ".png" else trackio.Video
        medium = kind(str(item.file), caption=item.file.name)
        medium._save(self._project, self._run.title, step)
        return {f"media/{item.file.name}": medium._to_dict()}


def _is_mark(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
