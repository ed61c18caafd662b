"""From runs to points: means over seeds with intervals, speed-up and efficiency within each series.

A *series* is a line of the figures: points that differ in their devices only. Its smallest point is what the others are
compared with. The ideal is a throughput in proportion to the devices, for weak and for strong scaling alike; efficiency
is the fraction of it that was reached.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math

import numpy as np

from podrl.ops.intervals import mean_interval, ratio_interval
from podrl.studies.folder import Folder, Status
from podrl.studies.grid import Point, Trial
from podrl.studies.measurement import Measurement


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run, as it was found."""

    trial: Trial  # its point and seed
    status: Status  # what it came to
    folder: str  # where it is, below the folder of the study

    @property
    def measurement(self) -> Measurement | None:
        """What was measured of a complete run; None otherwise."""
        return Measurement(**self.status.facts["measurement"]) if self.status.word == "complete" else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds, and its 95 % interval, None where there are fewer than two."""

    mean: float
    low: float | None
    high: float | None

    def scaled(self, factor: float) -> "Estimate":
        """The same in another unit."""
        low, high = (None if value is None else value * factor for value in (self.low, self.high))
        return Estimate(mean=self.mean * factor, low=low, high=high)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PointSummary:
    """What a point's complete runs say together."""

    point: Point  # itself
    series: str  # of which it is a part
    runs: tuple[RunRecord, ...]  # complete ones
    rate: Estimate  # env steps per second
    base_rate: float | None  # mean rate of the series' smallest point; None if that has no complete run
    base_devices: int  # of that point
    speedup: Estimate | None  # the rate over that one; None without
    efficiency: Estimate | None  # the speed-up over the ratio of devices
    time: Mapping[str, float]  # mean share of each bucket
    lag_mean: float | None  # mean over runs
    predicted: float | None  # env steps per second, as predicted

    @property
    def devices(self) -> int:
        """In the whole job."""
        return self.point.machines.devices

    def buckets(self, who: str) -> dict[str, float]:
        """Shares of the time of `learner` or `actors`, by bucket."""
        return {name.removeprefix(f"{who}/"): share for name, share in self.time.items() if name.startswith(f"{who}/")}


def collect(folder: Folder, points: Sequence[Point], seeds: Sequence[int]) -> list[RunRecord]:
    """All runs of a study, in the order of the grid, the seeds of a point together."""
    trials = [Trial(point=point, seed=seed) for point in points for seed in seeds]
    return [RunRecord(trial=each, status=folder.status(each), folder=folder.run_path(each)) for each in trials]


def series_of(point: Point, points: Sequence[Point]) -> str:
    """What a point's series is called, without its scaling; empty if there is but one.

    Where the number of processes varies, points with other devices in each are series of their own.
    """
    processes = {other.machines.processes for other in points}
    devices = {other.machines.devices_per_process for other in points}
    per_process = point.machines.devices_per_process
    sliced = point.machines.slice_type is not None
    each = f"{per_process} device(s) each" if len(processes) > 1 and len(devices) > 1 and not sliced else ""
    return ", ".join(filter(None, [point.series, each]))


def summarize_points(records: Sequence[RunRecord]) -> list[PointSummary]:
    """The points that have a complete run, in the order of the grid."""
    points = [record.trial.point for record in records]
    grouped: dict[str, list[RunRecord]] = {}
    for record in records:
        if record.measurement is not None:
            grouped.setdefault(record.trial.point.name, []).append(record)
    smallest: dict[tuple[str, str], Point] = {}
    for point in sorted(points, key=lambda point: point.machines.devices):
        # Also one without a complete run: nothing else may take its place.
        smallest.setdefault((point.scaling, series_of(point, points)), point)
    found = []
    for runs in grouped.values():
        series = series_of(runs[0].trial.point, points)
        base = smallest[runs[0].trial.point.scaling, series]
        found.append(_summarize(runs, series, grouped.get(base.name, []), base))
    return found


def lines_of(summaries: Sequence[PointSummary]) -> dict[tuple[str, str], list[PointSummary]]:
    """Points by scaling and series, each line from few devices to many."""
    lines: dict[tuple[str, str], list[PointSummary]] = {}
    for summary in summaries:
        lines.setdefault((summary.point.scaling, summary.series), []).append(summary)
    return {key: sorted(line, key=lambda summary: summary.devices) for key, line in lines.items()}


def _summarize(runs: Sequence[RunRecord], series: str, base_runs: Sequence[RunRecord], base: Point) -> PointSummary:
    found, base_rates = _measurements(runs), [each.env_steps_per_second for each in _measurements(base_runs)]
    rates = [each.env_steps_per_second for each in found]
    point = runs[0].trial.point
    speedup = estimate_ratio(rates, base_rates) if base_rates else None
    if speedup is not None and point.name == base.name:
        speedup = Estimate(mean=1.0, low=None, high=None)
    lags = [each.lag_mean for each in found if each.lag_mean is not None]
    predictions = [run.status.facts.get("predicted_env_steps_per_second") for run in runs]
    buckets = sorted(set().union(*(each.time for each in found)))
    return PointSummary(
        point=point,
        series=series,
        runs=tuple(runs),
        rate=estimate(rates, least=0.0),
        base_rate=float(np.mean(base_rates)) if base_rates else None,
        base_devices=base.machines.devices,
        speedup=speedup,
        efficiency=None if speedup is None else speedup.scaled(base.machines.devices / point.machines.devices),
        time={name: float(np.mean([each.time.get(name, 0.0) for each in found])) for name in buckets},
        lag_mean=float(np.mean(lags)) if lags else None,
        predicted=next((value for value in predictions if value is not None), None),
    )


def estimate(values: Sequence[float], *, least: float = -math.inf) -> Estimate:
    """The mean over seeds, and its interval; no value can be below `least`."""
    return _within(float(np.mean(values)), mean_interval(values), least)


def estimate_ratio(values: Sequence[float], base: Sequence[float]) -> Estimate:
    """The ratio of two mean rates over seeds, and its interval: not below 0."""
    above, below = float(np.mean(values)), float(np.mean(base))
    return _within(above / below if below else math.nan, ratio_interval(values, base), 0.0)


def _within(mean: float, interval: tuple[float, float] | None, least: float) -> Estimate:
    low, high = interval or (None, None)
    return Estimate(mean=mean, low=None if low is None else max(low, least), high=high)


def _measurements(runs: Sequence[RunRecord]) -> list[Measurement]:
    return [run.measurement for run in runs if run.measurement is not None]
