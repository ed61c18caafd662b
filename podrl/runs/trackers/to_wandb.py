"""Runs in W&B: on its server, or offline (`WANDB_MODE=offline`), in folders that `wandb sync` takes there.

The server says how far it got in the run's summary. Offline each export is one folder `offline-run-TIME-ID`; the next
export to the same project adds a folder with what is new. A note in it names the project and, once the export is
complete, has the marks. One that was interrupted is deleted, as the next export to its project has all of it again.
"""

from collections.abc import Sequence
import json
from pathlib import Path
import shutil
from typing import Any

from etils import epath

from podrl.config.config import ConfigError
from podrl.runs.run_files import write_json
from podrl.runs.trackers.items import Item, TrackedRun, read_marks

_NOTE = "podrl.json"
_INTERRUPTED: dict[str, Any] = {"count": -1, "new": 0, "marks": {}}
_UPDATES = "updates"  # The axis of runs from a data set; not a mark, as it is in items of all kinds.


def open_run(run: TrackedRun, project: str) -> "WandbRun":
    """Resumes the run of this id in W&B, or creates it.

    Raises:
        ConfigError: If W&B refuses, as without a login.
    """
    import wandb

    try:
        return WandbRun(run, project)
    except wandb.errors.Error as error:
        text = " ".join(str(error).split())
        raise ConfigError(f"W&B: {text} Log in by `wandb login`, or export offline: WANDB_MODE=offline.") from error


class WandbRun:
    """A run in W&B, with env steps on the horizontal axis of its curves."""

    def __init__(self, run: TrackedRun, project: str) -> None:
        """Resumes the run or creates it, and brings its config up to date."""
        import wandb

        settings = wandb.Settings(console="off", silent=True, x_disable_stats=True, save_code=False)
        self._wandb: Any = wandb
        self._project = project
        self._run = wandb.init(
            project=project,
            id=run.run_id,
            name=run.title,
            group=str(run.config["name"]),
            resume="allow",
            settings=settings,
        )
        self._run.config.update({**run.config, "folder": run.folder}, allow_val_change=True)
        self._axis = "env_steps" if run.axis == "env_steps" else _UPDATES
        self._run.define_metric(self._axis)
        self._run.define_metric("*", step_metric=self._axis)
        self._session = Path(self._run.dir).parent if self._run.offline else None
        self._count, self._is_whole = 0, True
        self.marks = read_marks(dict(self._run.summary))
        if self._session is not None:
            write_json(epath.Path(self._session) / _NOTE, {"project": project, **_INTERRUPTED})
            note = _take_up(self._session, run.run_id, project)
            self._count, self.marks = note["count"], note["marks"]
        self._begun = self._count

    def write(self, items: Sequence[Item]) -> None:
        """Adds items, one step of W&B's for each."""
        self._is_whole = False
        for item in items:
            values: dict[str, Any] = dict(item.values)
            if self._axis == _UPDATES:
                values[_UPDATES] = item.mark
            if item.file is not None:
                kind = self._wandb.Image if item.file.suffix == ".png" else self._wandb.Video
                values[f"media/{item.file.name}"] = kind(str(item.file))
            self._run.log(values, step=self._count if self._session else None)
            self.marks[item.kind] = item.mark
            self._count += 1
        self._is_whole = True

    def close(self, *, finished: bool) -> None:
        """Waits until W&B has all items."""
        self._run.finish()
        if self._session is not None and self._is_whole:
            self._wandb.teardown()  # Its process may still write to the folder after `finish`, and has ended then.
            facts = {"count": self._count, "new": self._count - self._begun, "marks": self.marks}
            write_json(epath.Path(self._session) / _NOTE, {"project": self._project, **facts})


def _take_up(session: Path, run_id: str, project: str) -> dict[str, Any]:
    """Returns how far exports to this project got before this one.

    Deletes those of the project that were interrupted or had no news, and folders without a note, which hold no items.
    """
    newest: dict[str, Any] = {"count": 0, "marks": {}}
    for other in session.parent.glob(f"offline-run-*-{run_id}*"):  # W&B adds a number to a second one of one second.
        path = other / _NOTE
        note = json.loads(path.read_text()) if path.exists() else {"project": project, **_INTERRUPTED}
        if other == session or note.get("project") != project:
            continue
        newest = max(newest, note, key=lambda note: note["count"])
        if not note["new"]:
            shutil.rmtree(other)
    return newest
