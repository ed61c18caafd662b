"""What one run did, from its own rows of metrics: rates, lag, where the time went, and how it learned.

A run may have been started several times. Each start has a clock of its own and a warm-up of its own (compilation, the
first rollouts), and neither warm-ups nor the gaps between starts count.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import math
from typing import Any

from podrl.rates import START_KEY, after_warm_up

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was measured between the warm-up and the last row.

    Attributes:
        env_steps_per_second: consumed by the learner.
        frames_per_second: emulator frames behind them.
        updates_per_second: of the learner.
        measured_s: seconds that the rates are of.
        measured_updates: updates that they are of.
        lag_mean: updates between the parameters that acted and those that learned, mean over rows.
        time: fraction of the learner's thread and of all actors' threads in each bucket, `learner/wait_rollouts`.
        env_steps: at the end of the run.
        wall_s: from the start of training to the last row, compilation included, summed over the run's starts.
        starts: how often it was started, as far as that left rows.
    """

    env_steps_per_second: float
    frames_per_second: float
    updates_per_second: float
    measured_s: float
    measured_updates: int
    lag_mean: float | None
    time: Mapping[str, float]
    env_steps: int
    wall_s: float
    starts: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """Mean return of the newest episodes against what it took.

    Attributes:
        seconds: of training since the first update, without compilation.
        env_steps: consumed by then.
        returns: then.
    """

    seconds: tuple[float, ...]
    env_steps: tuple[int, ...]
    returns: tuple[float, ...]

    def at_env_steps(self, budget: float) -> float | None:
        """The return when so many steps were consumed; None if none was known by then."""
        return self._newest(self.env_steps, budget)

    def at_seconds(self, budget: float) -> float | None:
        """The return after so many seconds; None if none was known by then."""
        return self._newest(self.seconds, budget)

    def _newest(self, places: Sequence[float], budget: float) -> float | None:
        known = [value for place, value in zip(places, self.returns, strict=True) if place <= budget]
        return known[-1] if known else None


def measure(rows: Sequence[Row], warm_up: int) -> Measurement:
    """Takes the measure of a run.

    Args:
        rows: of its metrics.
        warm_up: updates of each start that do not count; see `podrl.schedule.warm_up_updates`.

    Raises:
        RuntimeError: if there are no two rows after the warm-up of any start.
    """
    starts = [after_warm_up(start, warm_up) for start in split_starts(rows)]
    intervals = [pair for start in starts for pair in itertools.pairwise(start)]
    seconds = sum(_seconds(pair) for pair in intervals)
    if not intervals or seconds <= 0:
        raise RuntimeError(
            f"its {len(rows)} row(s) of metrics leave no two after the warm-up of {warm_up} updates, between "
            "which a rate could be taken. Use more --steps or --seconds, or a smaller --config.log.every_updates."
        )
    grown = {
        name: sum(after[name] - before[name] for before, after in intervals)
        for name in ("env_steps", "frames", "learner_steps")
    }
    lags = [after["lag/mean"] for _, after in intervals if after.get("lag/mean") is not None]
    return Measurement(
        env_steps_per_second=grown["env_steps"] / seconds,
        frames_per_second=grown["frames"] / seconds,
        updates_per_second=grown["learner_steps"] / seconds,
        measured_s=seconds,
        measured_updates=grown["learner_steps"],
        lag_mean=math.fsum(lags) / len(lags) if lags else None,
        time=_time_shares(intervals),
        env_steps=rows[-1]["env_steps"],
        wall_s=sum(start[-1]["time/wall_s"] for start in split_starts(rows)),
        starts=len(starts),
    )


def measured_seconds(rows: Sequence[Row], warm_up: int) -> float:
    """Seconds that a run under way has been measured for; arguments as of `measure`."""
    starts = [after_warm_up(start, warm_up) for start in split_starts(rows)]
    return sum(_seconds((start[0], start[-1])) for start in starts if start)


def learning_curve(rows: Sequence[Row]) -> LearningCurve:
    """How a run learned; empty if no episode ended.

    A start that goes on from a checkpoint has its first row some updates later. They count as long as they would have
    taken at the run's mean rate.
    """
    starts = split_starts(rows)
    trained_s = sum(_seconds((start[0], start[-1])) for start in starts)
    trained_steps = sum(start[-1]["env_steps"] - start[0]["env_steps"] for start in starts)
    seconds_per_step = trained_s / trained_steps if trained_steps else 0.0
    points: list[tuple[float, int, float]] = []
    end_s, end_steps = 0.0, None
    for start in starts:
        begin_s = end_s + (start[0]["env_steps"] - end_steps) * seconds_per_step if end_steps is not None else 0.0
        for row in start:
            if row.get("episode/return") is not None:
                points.append((begin_s + _seconds((start[0], row)), row["env_steps"], row["episode/return"]))
        end_s, end_steps = begin_s + _seconds((start[0], start[-1])), start[-1]["env_steps"]
    seconds, env_steps, returns = zip(*points, strict=True) if points else ((), (), ())
    return LearningCurve(seconds=seconds, env_steps=env_steps, returns=returns)


def split_starts(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of updates, those of each start of the run by themselves.

    A start's first row says so. In files of versions that did not write that, it is a row without a rate.
    """
    starts: list[list[Row]] = []
    before: Row | None = None
    says_so = False
    for row in rows:
        if "env_steps_per_second" not in row:  # An evaluation's.
            continue
        says_so = says_so or START_KEY in row
        if before is None or (START_KEY in row if says_so else _begins(before, row)):
            starts.append([])
        starts[-1].append(row)
        before = row
    return starts


def _begins(before: Row, row: Row) -> bool:
    """Whether a row that cannot say so is a start's first: it has no rate, and the one before has, or a later clock."""
    goes_on = before["env_steps_per_second"] is None and before["time/wall_s"] <= row["time/wall_s"]
    return row["env_steps_per_second"] is None and not goes_on


def _seconds(pair: tuple[Row, Row]) -> float:
    before, after = pair
    return float(after["time/wall_s"] - before["time/wall_s"])


def _time_shares(intervals: Sequence[tuple[Row, Row]]) -> dict[str, float]:
    """Where the threads' time went: each row speaks of the time since the row before."""
    total_s = sum(map(_seconds, intervals))
    spent: dict[str, float] = {}
    for before, after in intervals:
        for name, share in after.items():
            if name.startswith("time/") and name.count("/") == 2:
                bucket = name.removeprefix("time/")
                spent[bucket] = spent.get(bucket, 0.0) + share * _seconds((before, after))
    return {bucket: seconds / total_s for bucket, seconds in spent.items()}
