"""Curves of a metric over a run, read from its rows, and the average of several runs."""

import array
from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from podrl.config.config import check, did_you_mean
from podrl.runs.records import Rows, read_record
from podrl.telemetry.metrics_file import is_number
from podrl.telemetry.rates import CLOCK_FIELDS, FIRST_KEY, RATE_KEY, START_KEY, WALL_KEY, RunClock

X_KEYS = {"env_steps": "env_steps", "frames": "frames", "updates": "learner_steps", "wall": WALL_KEY}
GRID_POINTS = 400  # Points at which runs are averaged; about half a pixel apart at 800 pixels.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """One run's metric.

    Attributes:
        name: name of the run's config.
        env_id: id of its environment.
        window: number of newest episodes that episode metrics average over.
        x: [N] increasing: steps, frames, or seconds of training, see `read_curve`.
        y: [N] values of the metric.
    """

    name: str
    env_id: str
    window: int
    x: np.ndarray
    y: np.ndarray

    @property
    def title(self) -> str:
        """What it is a curve of, the same for all runs of a group."""
        return f"{self.name} on {self.env_id}"


def read_curve(run: str, x: str, y: str) -> Curve:
    """Reads one run's curve.

    On a horizontal axis `wall` is training time: the run's clock, over all of its starts, without what came before the
    first update of each start, such as compilation and the opening of environments.

    Args:
        run: the run's folder.
        x: quantity on the horizontal axis, a key of `X_KEYS`.
        y: name of the metric.

    Raises:
        ConfigError: if there is no run, or it has no such metric; the message lists those that it has.
    """
    record = read_record(run)
    config, x_key = record.config, X_KEYS[x]
    clock = RunClock() if WALL_KEY in (x_key, y) else None
    xs, ys, begun = array.array("d"), array.array("d"), _Begun()
    for row in record.rows.fields(x_key, y, *((*CLOCK_FIELDS, FIRST_KEY) if clock else ())):
        if clock:
            seconds = clock.read(row)
            if x_key == WALL_KEY and seconds is not None:
                seconds = begun.trained(row, seconds)
            row = {**row, WALL_KEY: seconds}
        if is_number(row.get(x_key)) and is_number(row.get(y)):
            xs.append(row[x_key])
            ys.append(row[y])
    if not xs:
        _check_metrics(run, record.rows, (x_key, y))
    check(bool(xs), f"{run} has no row with both {x_key} and {y}.")
    points = _in_order(np.array(xs), np.array(ys), distinct=x != "wall")
    env_id, window = config["env"]["id"], config["log"]["episodes"]
    return Curve(name=config["name"], env_id=env_id, window=window, x=points[0], y=points[1])


class _Begun:
    """What of a run's clock came before the first updates of its starts.

    Rows of an earlier podrl do not have `FIRST_KEY`: there a start's first row stands for its first update.
    """

    def __init__(self) -> None:
        self._before_s, self._newest_s, self._has_begun = 0.0, 0.0, False

    def trained(self, row: Mapping[str, Any], seconds: float) -> float:
        """Returns the seconds of training at a row, of which the run's clock is `seconds`."""
        if RATE_KEY in row:
            if START_KEY in row or not self._has_begun:
                since_first_s = row[WALL_KEY] - row[FIRST_KEY] if is_number(row.get(FIRST_KEY)) else 0.0
                self._before_s += seconds - since_first_s - self._newest_s
            self._newest_s, self._has_begun = seconds, True
        return max(seconds - self._before_s, 0.0)


def default_axes(runs: Sequence[str]) -> tuple[str, str]:
    """Returns the key of `X_KEYS` and the metric that suit runs; env steps and episodes are not those of a data set.

    Raises:
        ConfigError: if there is no run.
    """
    is_offline = any(read_record(run).config.get("total_updates", 0) for run in runs)
    return ("updates", "evaluate/return") if is_offline else ("env_steps", "episode/return")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ending:
    """Where one run's metric ended.

    Attributes:
        agent: name of its agent.
        env_id: id of its environment.
        window: number of newest episodes that episode metrics average over.
        setting: value of a key of its config.
        y: last value of the metric.
    """

    agent: str
    env_id: str
    window: int
    setting: float
    y: float


def read_ending(run: str, key: str, y: str) -> Ending:
    """Reads where one run's metric ended, and a value of its config.

    Args:
        run: the run's folder.
        key: a key of the config, such as `actors.lag`.
        y: name of the metric.

    Raises:
        ConfigError: as `read_curve`, or if the config has no number under this key.
    """
    curve = read_curve(run, "env_steps", y)
    config = read_record(run).config
    setting: Any = config
    for part in key.split("."):
        setting = setting.get(part) if isinstance(setting, Mapping) else None
    check(is_number(setting), f"--against={key}: the config of {run} has no number under this key.")
    agent = config["agent"]["name"]
    return Ending(agent=agent, env_id=curve.env_id, window=curve.window, setting=setting, y=float(curve.y[-1]))


def _in_order(x: np.ndarray, y: np.ndarray, *, distinct: bool) -> tuple[np.ndarray, np.ndarray]:
    """Sorts points [N] by x, as rows of evaluations come late; if `distinct`, keeps the last of each x."""
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    last = np.append(x[1:] != x[:-1], True) | (not distinct)
    return x[last], y[last]


def average_curves(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Puts the runs of one group on a common grid, where all of them have values.

    Returns:
        The grid [N], and the runs' values on it [len(curves), N]; a single run keeps its own points.

    Raises:
        ConfigError: if the runs do not overlap.
    """
    if len(curves) == 1:
        return curves[0].x, curves[0].y[np.newaxis]
    start, end = max(curve.x[0] for curve in curves), min(curve.x[-1] for curve in curves)
    check(
        start < end,
        f"The {len(curves)} runs of {curves[0].title} cannot be averaged: one ends at {end:,.0f}, another starts at "
        f"{start:,.0f}. Leave one out.",
    )
    grid = np.linspace(start, end, GRID_POINTS)
    return grid, np.stack([np.interp(grid, curve.x, curve.y) for curve in curves])


def group_curves(curves: Sequence[Curve]) -> list[list[Curve]]:
    """Groups runs of one config and environment, in the order of each group's first run."""
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        groups.setdefault(curve.title, []).append(curve)
    return list(groups.values())


def _check_metrics(run: str, rows: Rows, keys: Sequence[str]) -> None:
    """Raises `ConfigError`, which lists the metrics, unless there is a number under each key."""
    known = sorted({name for row in rows for name, value in row.items() if is_number(value)})
    check(bool(known), f"{run} has no metrics yet.")
    for key in keys:
        check(key in known, f"{run} has no metric {key!r}{did_you_mean(key, known)} It has: {', '.join(known)}.")
