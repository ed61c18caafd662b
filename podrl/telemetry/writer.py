"""Writes a run's measurements: episodes, rates, and the files that hold the curves.

A *row* is a flat mapping from metric names (`group/name`) to numbers, written every few updates. `env_steps` are the
agent's decisions that the learner has consumed; `frames` are the emulator's frames behind them (4 per step on Atari).
"""

from collections.abc import Iterator, Mapping
import contextlib
import json
import math
from pathlib import Path
from types import TracebackType
from typing import Any

from etils import epath
import numpy as np

from podrl.telemetry.kept_rows import drop_rows, keeps
from podrl.telemetry.line_file import LineFile
from podrl.telemetry.rates import BEFORE_KEY, FIRST_KEY, WALL_KEY
from podrl.types import Counters

# Keys that begin every line of `metrics.jsonl`; the others follow in alphabetical order.
FIRST_KEYS = ("learner_steps", "env_steps", "frames", "env_steps_per_second", "frames_per_second")


class MetricsWriter:
    """Appends rows to `metrics.jsonl`, and to TensorBoard event files under `tensorboard/`.

    A line is flushed at once, so a killed run loses none. Event files, and lines in an object store (`gs://`), are
    complete at every `sync`. A sync comes before each checkpoint: a resumed run does not make earlier rows again.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        *,
        tensorboard: bool,
        resumed: Counters | None = None,
        appends: bool | None = None,
        counts: str = "env_steps",
    ) -> None:
        """Opens the files.

        Args:
            workdir: the run's folder; created if missing.
            tensorboard: whether to write event files too.
            resumed: counters of the checkpoint from which the run resumes. Later rows, and a line that a crash cut
                short, belong to a lost attempt that is about to be repeated: they are dropped. None keeps the file as
                it is.
            appends: whether the file system can append; by default all except object stores can.
            counts: the counter on TensorBoard's x-axis, `env_steps` or `learner_steps`: what `write` gets as `step`.
        """
        self._workdir = epath.Path(workdir)
        path = self._workdir / "metrics.jsonl"
        self._events = None
        with self._named_failures():
            self._workdir.mkdir(parents=True, exist_ok=True)
            self._lines = _open_lines(path, resumed, appends)
            if tensorboard:
                from podrl.telemetry.event_file import (
                    EventFile,  # Its import takes half a second.
                )

                purge_step = getattr(resumed, counts) + 1 if resumed else None
                self._events = EventFile(str(self._workdir / "tensorboard"), purge_step=purge_step)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except RuntimeError:
            if error is None:  # Otherwise closing failed for the same reason as writing.
                raise

    def write(self, row: Mapping[str, Any], step: int) -> None:
        """Writes one row.

        Args:
            row: Python or numpy scalars; metrics on a device must have been fetched. Ints are exact, floats keep six
                significant digits, the clock milliseconds. JSON has no NaN and no infinity: both become `null`, and
                TensorBoard skips them.
            step: the counter that is the x-axis in TensorBoard.

        Raises:
            RuntimeError: if it cannot be written.
        """
        plain = {key: _plain(row[key]) for key in _ordered(row)}
        for key in (WALL_KEY, FIRST_KEY, BEFORE_KEY):
            if isinstance(wall_s := row.get(key), float) and wall_s >= 1000:
                plain[key] = round(wall_s, 3)  # After weeks six digits would only resolve minutes.
        with self._named_failures():
            self._lines.write(json.dumps(plain, allow_nan=False))
            if self._events is not None:
                scalars = {key: value for key, value in plain.items() if type(value) in (int, float)}
                if any(key.startswith("evaluate/") for key in scalars):  # Others would be second points.
                    scalars = {key: value for key, value in scalars.items() if key.startswith("evaluate/")}
                self._events.write(scalars, step)

    def sync(self) -> None:
        """Writes all rows so far to both files, wherever they are: a run that is killed afterwards loses none of them.

        Raises:
            RuntimeError: if they cannot be written.
        """
        with self._named_failures():
            self._lines.sync()
            if self._events is not None:
                self._events.sync()

    def close(self) -> None:
        """Closes the files; may be called twice.

        Raises:
            RuntimeError: if the remaining rows cannot be written.
        """
        events, self._events = self._events, None
        with self._named_failures(), contextlib.ExitStack() as stack:
            if events is not None:
                stack.callback(events.close)
            self._lines.close()

    @contextlib.contextmanager
    def _named_failures(self) -> Iterator[None]:
        """Says which files could not be written, and why: a system's error often names none."""
        try:
            yield
        except OSError as error:
            raise RuntimeError(
                f"The metrics in {self._workdir} cannot be written ({error.strerror or error}). What was saved is not "
                "harmed: fix this and repeat the command to resume."
            ) from error


def _open_lines(path: epath.Path, resumed: Counters | None, appends: bool | None) -> LineFile:
    """Opens the file of rows, without the rows that a resumed run makes again."""
    appends = "://" not in str(path) if appends is None else appends
    if resumed is None:
        return LineFile(path, appends=appends)
    if appends and path.exists():
        drop_rows(Path(path), resumed.learner_steps)
    return LineFile(path, appends=appends, keeps=lambda line: keeps(line, resumed.learner_steps))


def _ordered(row: Mapping[str, Any]) -> list[str]:
    """Returns the keys of a row in the order of the file."""
    return [key for key in FIRST_KEYS if key in row] + sorted(key for key in row if key not in FIRST_KEYS)


def _plain(value: Any) -> Any:
    """Returns a numpy scalar as Python's; a float gets six significant digits, or None if it is not finite."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
