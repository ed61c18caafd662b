"""Brings a run to a tracker: all that the tracker lacks, and with `follow` what comes while the run is under way."""

from collections.abc import Sequence
import importlib
import importlib.util
import time
from typing import Protocol

from absl import logging
from etils import epath

from podrl.config.config import ConfigError
from podrl.config.extras import install_command
from podrl.runs.trackers.items import Item, RunFiles, TrackedRun
from podrl.runtime.waiting import Patience

TRACKERS = ("mlflow", "trackio", "wandb")
_LOOK_S = 0.5
_SLICE_S = 1.0  # Longest part of a pause; patience counts no more than two seconds at a time.


class Tracker(Protocol):
    """A run in a tracker, open for writing.

    Attributes:
        marks: How far it got, by kind, as the tracker itself says.
    """

    marks: dict[str, int]

    def write(self, items: Sequence[Item]) -> None:
        """Adds items."""

    def close(self, *, finished: bool) -> None:
        """Completes what was written; `finished` is whether the run has reached its length."""


def open_tracker(name: str, run: TrackedRun, project: str | None) -> Tracker:
    """Opens a run in a tracker, the one that it has been since its first export.

    Args:
        name: One of `TRACKERS`, which is also the package's name.
        run: The run.
        project: The project, or MLflow's experiment; by default the config's name.

    Raises:
        ConfigError: If the package is missing, or the tracker cannot be reached.
    """
    if importlib.util.find_spec(name) is None:
        raise ConfigError(f"--to {name} needs the package {name}: pip install {name}, or {install_command(name)}.")
    module = importlib.import_module(f"podrl.runs.trackers.to_{name}")
    tracker: Tracker = module.open_run(run, project or str(run.config["name"]))
    return tracker


def export_run(folder: str, name: str, project: str | None, *, follow: bool, wait_s: float, poll_s: float) -> int:
    """Brings one run to a tracker.

    Args:
        folder: The run's folder.
        name: The tracker.
        project: As of `open_tracker`.
        follow: Whether to stay until the run ends.
        wait_s: How long to wait, with `follow`, for a run that has not begun, or that was stopped and may resume.
        poll_s: Seconds between two looks.

    Returns:
        The number of items that the tracker lacked.

    Raises:
        ConfigError: If there is no such run, another one has begun in its folder meanwhile, the package is missing, or
            the tracker cannot be reached.
    """
    patience = Patience(wait_s)
    while follow and find_missing(folder) and patience.left_s():
        time.sleep(_LOOK_S)
    files = RunFiles(folder)
    tracker = open_tracker(name, files.run, project)
    files.marks, count, patience = dict(tracker.marks), 0, Patience(wait_s)
    try:
        while True:
            under_way = files.is_under_way()
            items = files.read()
            tracker.write(items)
            count += len(items)
            if items:
                patience = Patience(wait_s)
            if not follow or (not under_way and (files.is_finished or not patience.left_s())):
                break
            _pause(poll_s if under_way else min(poll_s, patience.left_s()), patience)
            if under_way:
                patience = Patience(wait_s)
    finally:
        tracker.close(finished=files.is_finished and not files.is_under_way())
    logging.info("%s: %d new rows, checkpoints and files to %s as %s.", folder, count, name, files.run.title)
    return count


def _pause(pause_s: float, patience: Patience) -> None:
    while pause_s > 0:
        time.sleep(min(pause_s, _SLICE_S))
        patience.left_s()
        pause_s -= _SLICE_S


def find_missing(folder: str) -> list[str]:
    """Returns which of the files that show that a run has begun are not there."""
    return [name for name in ("manifest.json", "config.json") if not (epath.Path(folder) / name).exists()]
