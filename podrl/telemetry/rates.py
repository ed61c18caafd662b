"""How fast a run is, measured by when its updates end on their devices.

Rates count what the learner consumed over wall time. A rate by another clock (when a row is written, or when the next
rollouts arrive) is off by up to an update, and in the last row by all of it.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any, NamedTuple

RATE_KEY = "env_steps_per_second"  # Only rows of updates have it.
SAMPLES_KEY = "data/samples_per_second"  # Only rows of runs that learn from a data set have it.
WALL_KEY = "time/wall_s"
START_KEY = "time/start"  # Only a start's first row of an update has it: the learner steps made before.
FIRST_KEY = "time/first_update_s"  # Beside `START_KEY`: the run's clock at the end of that start's first update.
BEFORE_KEY = "time/before_s"  # Only a start's first row has it: the run's clock when the start began.


@dataclasses.dataclass(frozen=True, kw_only=True)
class End:
    """When an update ended on its devices.

    Attributes:
        ended_s: time of the end by `time.perf_counter`.
        spent_s: seconds that the learner's and all actors' threads had spent on each bucket by then.
    """

    ended_s: float
    spent_s: Mapping[str, Mapping[str, float]]


class Rates(NamedTuple):
    """Steps per second: `recent` since the row before, `average` since the warm-up ended; NaN if no time passed.

    The first `recent` of a start is NaN too: there is no row before.
    """

    recent: float
    average: float


class RunClock:
    """The clock of a run over all of its starts, computed from its rows.

    Rows with `BEFORE_KEY` continue the clock of the start before. In rows of an earlier podrl the clock begins anew at
    each start, which is recognised by `START_KEY`, or by a clock that goes back.
    """

    def __init__(self) -> None:
        """Starts before the first row, at 0."""
        self._before_s = 0.0  # Seconds of earlier starts, if rows count from their own start.
        self._newest_s: float | None = None  # In the newest row of an update of this start.
        self.seconds = 0.0  # At the newest row of an update.

    def read(self, row: Mapping[str, Any]) -> float | None:
        """Returns the run's clock at a row with at least the fields of `CLOCK_FIELDS`; None if the row has no clock."""
        wall_s = row.get(WALL_KEY)
        if not isinstance(wall_s, int | float):
            return None
        if BEFORE_KEY in row:
            self._before_s, self._newest_s = 0.0, None
        elif self._newest_s is not None and (START_KEY in row or wall_s < self._newest_s):
            self._before_s, self._newest_s = self.seconds, None
        if RATE_KEY in row:
            self._newest_s = wall_s
            self.seconds = self._before_s + wall_s
        return self._before_s + wall_s


CLOCK_FIELDS = (RATE_KEY, WALL_KEY, START_KEY, BEFORE_KEY)


class RateMeter:
    """How fast the learner consumes steps, from the ends of its updates on their devices.

    The first `warm_up` ends start the clock anew. The first update waits for environments that open. Rollouts that were
    made meanwhile are ready when it ends: one for each update of policy lag. After them comes the first rollout that
    was begun while the clock ran. Multiply by `EnvSpec.frames_per_step` for frames.
    """

    def __init__(self, warm_up: int = 1) -> None:
        """Prepares the clock, which starts after `warm_up` updates."""
        self._warm_up = warm_up
        self._ends = 0
        self._has_read = False
        self._start = self._last = self._newest = (0, math.nan)

    def add(self, env_steps: int, ended_s: float) -> None:
        """Adds the end of an update; updates that end together, as those of one call, count as one.

        Args:
            env_steps: env steps consumed by then.
            ended_s: time of the end by a monotonic clock.
        """
        self._ends += ended_s != self._newest[1]
        self._newest = (env_steps, ended_s)
        if self._ends <= self._warm_up:
            self._start = self._last = self._newest

    def read(self) -> Rates:
        """Returns the rates at the newest end; `recent` since the end at the last call, NaN at the first call."""
        recent = _slope(self._last, self._newest) if self._has_read else math.nan
        self._last, self._has_read = self._newest, True
        return Rates(recent=recent, average=_slope(self._start, self._newest))


def first_counted(first: Mapping[str, Any], warm_up: int) -> int:
    """Returns the first update after the warm-up of the start that has this first row."""
    return int(first.get(START_KEY, first["learner_steps"] - 1)) + warm_up


def _slope(start: tuple[int, float], end: tuple[int, float]) -> float:
    """Returns the steps per second between two (steps, seconds); NaN if no time passed."""
    seconds = end[1] - start[1]
    return (end[0] - start[0]) / seconds if seconds > 0 else math.nan
