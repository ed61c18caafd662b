"""What one run did, from its own rows of metrics: rates, lag, where the time went, and how it learned.

A run may have been started several times. Each start has a warm-up of its own (compilation, the first rollouts), and
neither warm-ups nor the gaps between starts count. Rows are taken one by one and not kept.
"""

import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import itertools
from typing import Any

from podrl.telemetry.rates import CLOCK_FIELDS, RATE_KEY, START_KEY, WALL_KEY, RunClock, first_counted

_Row = Mapping[str, Any]
MEASURED_FIELDS = ("learner_steps", *CLOCK_FIELDS)
LEARNING_FIELDS = ("learner_steps", "env_steps", "episode/return", *CLOCK_FIELDS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was measured between the warm-up and the last row."""

    env_steps_per_second: float  # consumed by the learner
    frames_per_second: float  # emulator frames behind them
    updates_per_second: float  # of the learner
    measured_s: float  # seconds that the rates are of
    measured_updates: int  # updates that they are of
    lag_mean: float | None  # updates between the parameters that acted and those that learned, mean over rows
    # fraction of the learner's thread and of all actors' threads in each bucket, `learner/wait_rollouts`
    time: Mapping[str, float]
    env_steps: int  # at the end of the run
    wall_s: float  # from the start of training to the last row, compilation included, summed over the run's starts
    starts: int  # how often it was started, as far as that left rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """Mean return of the newest episodes against what it took."""

    seconds: tuple[float, ...]  # of training since the first update, without compilation
    env_steps: tuple[int, ...]  # consumed by then
    returns: tuple[float, ...]  # then

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
    """Measures a run by its rows; `warm_up` is the number of updates of each start that do not count.

    Raises:
        RuntimeError: if there are no two rows after the warm-up of any start.
    """
    counter, clock, last = itertools.count(), RunClock(), None
    spans: list[_Span] = []
    for begins, row in mark_starts(row for row in rows if next(counter) >= 0):
        clock.read(row)
        spans += [_Span(row, warm_up)] if begins else []
        spans[-1].add(row)
        last = row
    total: Counter[str] = Counter()
    for span in spans:
        total.update(span.grown)
    seconds = float(total["seconds"])
    if last is None or seconds <= 0:
        raise RuntimeError(
            f"its {next(counter)} row(s) of metrics leave no two after the warm-up of {warm_up} updates, between "
            "which a rate could be taken. Use more --steps or --seconds, or a smaller --config.log.every_updates."
        )
    return Measurement(
        env_steps_per_second=total["env_steps"] / seconds,
        frames_per_second=total["frames"] / seconds,
        updates_per_second=total["learner_steps"] / seconds,
        measured_s=seconds,
        measured_updates=total["learner_steps"],
        lag_mean=total["lag"] / total["lags"] if total["lags"] else None,
        time={name.removeprefix("time/"): s / seconds for name, s in total.items() if name.startswith("time/")},
        env_steps=last["env_steps"],
        wall_s=clock.seconds,
        starts=len(spans),
    )


def measured_seconds(rows: Iterable[_Row], warm_up: int) -> float:
    """Seconds that a run under way has been measured for, by `MEASURED_FIELDS`; arguments as of `measure_rows`."""
    spans: list[_Span] = []
    for begins, row in mark_starts(rows):
        spans += [_Span(row, warm_up)] if begins else []
        spans[-1].add(row)
    return float(sum(span.grown["seconds"] for span in spans))


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


class _Span:
    """What grew between the rows of one start that `podrl.telemetry.rates.after_warm_up` would choose."""

    def __init__(self, first: _Row, warm_up: int):
        self.grown: Counter[str] = Counter()
        self._counts = first_counted(first, warm_up)
        self._before: _Row | None = None

    def add(self, row: _Row) -> None:
        if row[RATE_KEY] is None:  # The last such row is where they begin.
            self.grown, self._before = Counter(), None
        if row["learner_steps"] < self._counts:
            return
        if self._before is not None:
            seconds: Any = _seconds((self._before, row))  # Of a type that a counter does not ask for.
            self.grown["seconds"] += seconds
            for name in ("env_steps", "frames", "learner_steps"):
                self.grown[name] += row.get(name, 0) - self._before.get(name, 0)
            if row.get("lag/mean") is not None:
                self.grown.update({"lag": row["lag/mean"], "lags": 1})
            self.grown.update(
                {n: share * seconds for n, share in row.items() if n[:5] == "time/" and n.count("/") == 2}
            )
        self._before = row


def _begins(before: _Row, row: _Row) -> bool:
    """Whether a row that cannot say so is a start's first: it has no rate, and the one before has, or a later clock."""
    goes_on = before[RATE_KEY] is None and before[WALL_KEY] <= row[WALL_KEY]
    return row[RATE_KEY] is None and not goes_on


def _seconds(pair: tuple[_Row, _Row]) -> float:
    before, after = pair
    return float(after[WALL_KEY] - before[WALL_KEY])
