"""What one run did, from its own rows of metrics: rates, lag, where the time went, and how it learned.

A run may have been started several times. Each start has a warm-up of its own (compilation, the first rollouts), and
neither warm-ups nor the gaps between starts count. Rows are taken one by one and not kept.
"""

import array
import bisect
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
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

    seconds: Sequence[float]  # of training since the first update, without compilation
    env_steps: Sequence[int]  # consumed by then
    returns: Sequence[float]  # then

    def newest_return(self, axis: str, budget: float) -> float | None:
        """The return at so many `seconds` or `env_steps`, which is the axis; None if none was known by then."""
        count = bisect.bisect_right(getattr(self, axis), budget)
        return self.returns[count - 1] if count else None


def measure_rows(rows: Iterable[_Row], warm_up: int) -> Measurement:
    """Measures a run by its rows; `warm_up` is the number of updates of each start that do not count.

    Raises:
        RuntimeError: if there are no two rows after the warm-up of any start.
    """
    clock = RunClock()
    spans = _read_spans((row for row in rows if clock.read(row) is not None), warm_up)
    total = _add_up(spans)
    seconds = float(total["seconds"])
    if seconds <= 0:
        raise RuntimeError(
            f"its {sum(span.rows for span in spans)} row(s) of metrics leave no two after the warm-up of {warm_up} "
            "updates, between which a rate could be taken. Use more --steps or --seconds, or a smaller "
            "--config.log.every_updates."
        )
    return Measurement(
        env_steps_per_second=total["env_steps"] / seconds,
        frames_per_second=total["frames"] / seconds,
        updates_per_second=total["learner_steps"] / seconds,
        measured_s=seconds,
        measured_updates=total["learner_steps"],
        lag_mean=total["lag"] / total["lags"] if total["lags"] else None,
        time={name.removeprefix("time/"): s / seconds for name, s in total.items() if name.startswith("time/")},
        env_steps=spans[-1].last["env_steps"],
        wall_s=clock.seconds,
        starts=len(spans),
    )


def measured_seconds(rows: Iterable[_Row], warm_up: int) -> float:
    """Seconds that a run under way has been measured for, by `MEASURED_FIELDS`; arguments as of `measure_rows`."""
    return float(_add_up(_read_spans(rows, warm_up))["seconds"])


def learning_curve(rows: Iterable[_Row]) -> LearningCurve:
    """How a run learned, by `LEARNING_FIELDS`; empty if no episode ended.

    A start that goes on from a checkpoint has its first row some updates later. They count as long as they would have
    taken at the run's mean rate so far.
    """
    seconds, env_steps, returns = array.array("d"), array.array("q"), array.array("d")
    passed_s = trained_s = trained_steps = 0.0
    before: _Row = {}
    for begins, row in mark_starts(rows):
        if before:
            steps = row["env_steps"] - before["env_steps"]
            if not begins:
                trained_s, trained_steps = trained_s + _seconds(before, row), trained_steps + steps
            passed_s += _seconds(before, row) if not begins else steps * trained_s / (trained_steps or 1)
        before = row
        if row.get("episode/return") is not None:
            seconds.append(passed_s)
            env_steps.append(row["env_steps"])
            returns.append(row["episode/return"])
    return LearningCurve(seconds=seconds, env_steps=env_steps, returns=returns)


def mark_starts(rows: Iterable[_Row]) -> Iterator[tuple[bool, _Row]]:
    """The rows of updates, and whether each is the first of a start of the run, which says so."""
    is_first = True
    for row in rows:
        if RATE_KEY in row:  # Else it is an evaluation's.
            yield is_first or START_KEY in row, row
            is_first = False


class _Span:
    """What grew between the rows of one start: from its last row without a rate on, and from the end of its warm-up."""

    def __init__(self, first: _Row, warm_up: int):
        self.grown: Counter[str] = Counter()
        self.rows, self.last = 0, first
        self._counts = first_counted(first, warm_up)
        self._before: _Row | None = None

    def add(self, row: _Row) -> None:
        self.rows, self.last = self.rows + 1, row
        if row[RATE_KEY] is None:  # The last such row is where they begin.
            self.grown, self._before = Counter(), None
        if row["learner_steps"] < self._counts:
            return
        if self._before is not None:
            seconds: Any = _seconds(self._before, row)  # Of a type that a counter does not ask for.
            self.grown["seconds"] += seconds
            for name in ("env_steps", "frames", "learner_steps"):
                self.grown[name] += row.get(name, 0) - self._before.get(name, 0)
            if row.get("lag/mean") is not None:
                self.grown.update({"lag": row["lag/mean"], "lags": 1})
            self.grown.update(
                {n: share * seconds for n, share in row.items() if n[:5] == "time/" and n.count("/") == 2}
            )
        self._before = row


def _read_spans(rows: Iterable[_Row], warm_up: int) -> list[_Span]:
    """One for each start of the run."""
    spans: list[_Span] = []
    for begins, row in mark_starts(rows):
        spans += [_Span(row, warm_up)] if begins else []
        spans[-1].add(row)
    return spans


def _add_up(spans: Sequence[_Span]) -> Counter[str]:
    total: Counter[str] = Counter()
    for span in spans:
        total.update(span.grown)
    return total


def _seconds(before: _Row, after: _Row) -> float:
    return float(after[WALL_KEY] - before[WALL_KEY])
