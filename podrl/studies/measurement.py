"""What one run did, from its own rows of metrics: rates, lag, where the time went, and how it learned.

A run may have been started several times. Each start has a warm-up of its own (compilation, the first rollouts), and
neither warm-ups nor the gaps between starts count. Rows are taken one by one and not kept.
"""

import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import itertools
import math
from typing import Any

from podrl.telemetry.rates import CLOCK_FIELDS, RATE_KEY, START_KEY, WALL_KEY, RunClock, first_counted

_Row = Mapping[str, Any]
MEASURED_FIELDS = ("learner_steps", *CLOCK_FIELDS)
LEARNING_FIELDS = ("learner_steps", "env_steps", "episode/return", *CLOCK_FIELDS)


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


def measure_rows(rows: Iterable[_Row], warm_up: int) -> Measurement:
    """Takes the measure of a run.

    Args:
        rows: of its metrics, which are read once.
        warm_up: updates of each start that do not count; see `podrl.experience.schedule.warm_up_updates`.

    Raises:
        RuntimeError: if there are no two rows after the warm-up of any start.
    """
    counter, total, clock, last = itertools.count(), _Tally(), RunClock(), None
    spans = []
    for begins, row in mark_starts(_counted(rows, counter)):
        clock.read(row)
        if begins:
            spans.append(_Span(row, warm_up))
        spans[-1].add(row)
        last = row
    for span in spans:
        total.join(span.tally)
    if last is None or not total.intervals or total.seconds <= 0:
        raise RuntimeError(
            f"its {next(counter)} row(s) of metrics leave no two after the warm-up of {warm_up} updates, between "
            "which a rate could be taken. Use more --steps or --seconds, or a smaller --config.log.every_updates."
        )
    return Measurement(
        env_steps_per_second=total.grown["env_steps"] / total.seconds,
        frames_per_second=total.grown["frames"] / total.seconds,
        updates_per_second=total.grown["learner_steps"] / total.seconds,
        measured_s=total.seconds,
        measured_updates=total.grown["learner_steps"],
        lag_mean=math.fsum(total.lags) / len(total.lags) if total.lags else None,
        time={bucket: seconds / total.seconds for bucket, seconds in total.spent_s.items()},
        env_steps=last["env_steps"],
        wall_s=clock.seconds,
        starts=len(spans),
    )


def measured_seconds(rows: Iterable[_Row], warm_up: int) -> float:
    """Seconds that a run under way has been measured for, by `MEASURED_FIELDS`; arguments as of `measure_rows`."""
    spans: list[_Span] = []
    for begins, row in mark_starts(rows):
        if begins:
            spans.append(_Span(row, warm_up))
        spans[-1].add(row)
    return sum(span.tally.seconds for span in spans)


def learning_curve(rows: Iterable[_Row]) -> LearningCurve:
    """How a run learned, by `LEARNING_FIELDS`; empty if no episode ended.

    A start that goes on from a checkpoint has its first row some updates later. They count as long as they would have
    taken at the run's mean rate.
    """
    starts: list[tuple[_Row, _Row]] = []  # The first and the last row of each.
    places, seconds, env_steps, returns = (array.array("d") for _ in range(4))
    for begins, row in mark_starts(rows):
        if begins:
            starts.append((row, row))
        starts[-1] = (starts[-1][0], row)
        if row.get("episode/return") is not None:
            places.append(len(starts) - 1)
            seconds.append(_seconds((starts[-1][0], row)))
            env_steps.append(row["env_steps"])
            returns.append(row["episode/return"])
    trained_s = sum(map(_seconds, starts))
    trained_steps = sum(last["env_steps"] - first["env_steps"] for first, last in starts)
    seconds_per_step = trained_s / trained_steps if trained_steps else 0.0
    begins_s = [0.0] if starts else []
    for before, (first, _) in itertools.pairwise(starts):
        gap_s = (first["env_steps"] - before[1]["env_steps"]) * seconds_per_step
        begins_s.append(begins_s[-1] + _seconds(before) + gap_s)
    return LearningCurve(
        seconds=tuple(begins_s[int(place)] + since_s for place, since_s in zip(places, seconds, strict=True)),
        env_steps=tuple(map(int, env_steps)),
        returns=tuple(returns),
    )


def mark_starts(rows: Iterable[_Row]) -> Iterator[tuple[bool, _Row]]:
    """The rows of updates, and whether each is the first of a start of the run.

    A start's first row says so. In files of versions that did not write that, it is a row without a rate.
    """
    before: _Row | None = None
    says_so = False
    for row in rows:
        if RATE_KEY not in row:  # An evaluation's.
            continue
        says_so = says_so or START_KEY in row
        yield before is None or (START_KEY in row if says_so else _begins(before, row)), row
        before = row


class _Tally:
    """What grew and where the time went between rows that follow each other."""

    def __init__(self) -> None:
        self.intervals = 0
        self.seconds = 0.0
        self.grown = dict.fromkeys(("env_steps", "frames", "learner_steps"), 0)
        self.lags = array.array("d")
        self.spent_s: dict[str, float] = {}

    def add(self, before: _Row, after: _Row) -> None:
        seconds = _seconds((before, after))
        self.intervals += 1
        self.seconds += seconds
        for name in self.grown.keys() & after.keys():
            self.grown[name] += after[name] - before[name]
        if after.get("lag/mean") is not None:
            self.lags.append(after["lag/mean"])
        for name, share in after.items():
            if name.startswith("time/") and name.count("/") == 2:
                self._spend(name.removeprefix("time/"), share * seconds)

    def join(self, other: "_Tally") -> None:
        self.intervals += other.intervals
        self.seconds += other.seconds
        for name, count in other.grown.items():
            self.grown[name] += count
        self.lags.extend(other.lags)
        for bucket, seconds in other.spent_s.items():
            self._spend(bucket, seconds)

    def _spend(self, bucket: str, seconds: float) -> None:
        self.spent_s[bucket] = self.spent_s.get(bucket, 0.0) + seconds


class _Span:
    """The rows of one start between which rates are taken, as `podrl.telemetry.rates.after_warm_up` chooses them."""

    def __init__(self, first: _Row, warm_up: int):
        self.tally = _Tally()
        self._counts = first_counted(first, warm_up)
        self._before: _Row | None = None

    def add(self, row: _Row) -> None:
        if row[RATE_KEY] is None:  # The last such row is where they begin.
            self.tally, self._before = _Tally(), None
        if row["learner_steps"] >= self._counts:
            if self._before is not None:
                self.tally.add(self._before, row)
            self._before = row


def _counted(rows: Iterable[_Row], counter: Iterator[int]) -> Iterator[_Row]:
    """The rows; the next of `counter` is their number."""
    for row in rows:
        next(counter)
        yield row


def _begins(before: _Row, row: _Row) -> bool:
    """Whether a row that cannot say so is a start's first: it has no rate, and the one before has, or a later clock."""
    goes_on = before[RATE_KEY] is None and before[WALL_KEY] <= row[WALL_KEY]
    return row[RATE_KEY] is None and not goes_on


def _seconds(pair: tuple[_Row, _Row]) -> float:
    before, after = pair
    return float(after[WALL_KEY] - before[WALL_KEY])
