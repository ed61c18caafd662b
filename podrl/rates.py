"""How fast a run is, by the times at which its updates end on their devices.

Rates are of what the learner consumed over wall time. What is read by another clock (when a row is written, or when the
next rollouts come) is off by up to an update, and by all of it in the last row.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import NamedTuple


@dataclasses.dataclass(frozen=True, kw_only=True)
class End:
    """When an update ended on its devices.

    Attributes:
        ended_s: by `time.perf_counter`.
        spent_s: what the learner's and all actors' threads had spent on each bucket by then.
    """

    ended_s: float
    spent_s: Mapping[str, Mapping[str, float]]


class Rates(NamedTuple):
    """Steps per second: `recent` since the row before, `average` since the warm-up ended; NaN where no time passed."""

    recent: float
    average: float


class RateMeter:
    """How fast the learner consumes steps, from the ends of its updates on their devices.

    The first `warm_up` ends start the clock anew. The first update waits for environments that open. Rollouts that were
    made meanwhile lie ready when it ends: one for each update of policy lag. After them comes the first rollout that
    was begun when the clock ran. Multiply by `EnvSpec.frames_per_step` for frames.
    """

    def __init__(self, warm_up: int = 1) -> None:
        """Not started yet."""
        self._warm_up = warm_up
        self._ends = 0
        self._start = self._last = self._newest = (0, math.nan)

    def add(self, env_steps: int, ended_s: float) -> None:
        """Takes the end of an update; updates that end together, as those of one call, count as one.

        Args:
            env_steps: consumed by then.
            ended_s: by a monotonic clock.
        """
        self._ends += ended_s != self._newest[1]
        self._newest = (env_steps, ended_s)
        if self._ends <= self._warm_up:
            self._start = self._last = self._newest

    def read(self) -> Rates:
        """The rates at the newest end; `recent` since the end at the call before."""
        rates = Rates(recent=_slope(self._last, self._newest), average=_slope(self._start, self._newest))
        self._last = self._newest
        return rates


def _slope(start: tuple[int, float], end: tuple[int, float]) -> float:
    """Steps per second between two (steps, seconds); NaN if no time passed."""
    seconds = end[1] - start[1]
    return (end[0] - start[0]) / seconds if seconds > 0 else math.nan
