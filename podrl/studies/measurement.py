"""What one run did, from its own rows of metrics: rates, lag, and where the time went.

A run may have been started several times. Each start has a warm-up of its own (compilation, the first rollouts), and
neither warm-ups nor the gaps between starts count. Rows are taken one by one and not kept.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
import dataclasses
from typing import Any

from podrl.telemetry.rates import CLOCK_FIELDS, RATE_KEY, START_KEY, WALL_KEY, RunClock, first_counted

_Row = Mapping[str, Any]
MEASURED_FIELDS = ("learner_steps", *CLOCK_FIELDS)


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


def measure_rows(rows: Iterable[_Row], warm_up: int) -> Measurement:
    """Measures a run by its rows; `warm_up` is the number of updates of each start that do not count.

    Raises:
        RuntimeError: if there are no two rows after the warm-up of any start.
    """
    clock = RunClock()
    spans = _read_spans((row for row in rows if clock.read(row) is not None), warm_up)
    total: Counter[str] = Counter()
    for span in spans:
        total.update(span.grown)
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
    return float(sum(span.grown["seconds"] for span in _read_spans(rows, warm_up)))


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
            seconds: Any = row[WALL_KEY] - self._before[WALL_KEY]  # Of a type that a counter does not ask for.
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
    """One for each start of the run, whose first row says that it is that."""
    spans: list[_Span] = []
    for row in rows:
        if RATE_KEY in row:  # Else it is an evaluation's.
            if not spans or START_KEY in row:
                spans.append(_Span(row, warm_up))
            spans[-1].add(row)
    return spans
