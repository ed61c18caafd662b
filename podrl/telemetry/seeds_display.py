"""Shows several seeds as one run: rates are sums, and returns are means with the lowest and the highest."""

from collections.abc import Sequence
import math

import numpy as np

from podrl.telemetry.display import Display
from podrl.telemetry.metrics_file import Row
from podrl.telemetry.panel import HIGHEST, LOWEST

_RETURN = "episode/return"
_SUMS = ("env_steps_per_second", "frames_per_second", "episode/count")


class SeedsDisplay:
    """Takes the rows of the seeds, and shows one for all of them. Rows of all seeds come after the same updates."""

    def __init__(self, display: Display, num_seeds: int):
        """Has no rows yet.

        Args:
            display: The run's.
            num_seeds: The number of seeds.
        """
        self._display, self._num_seeds = display, num_seeds
        self._rows: list[Row] = []

    def update(self, row: Row) -> None:
        """Takes the row of the next seed; that of the last one shows them all."""
        self._rows.append(row)
        if len(self._rows) == self._num_seeds:
            self._display.update(join_rows(self._rows))
            self._rows = []


def join_rows(rows: Sequence[Row]) -> Row:
    """Returns one row for the rows of several seeds at the same update; numbers that a seed has not are left out."""
    joined = dict(rows[0])
    for key, value in rows[0].items():
        if isinstance(value, float) and not key.startswith("time/"):
            numbers = [row[key] for row in rows if math.isfinite(row.get(key, math.nan))]
            joined[key] = float(np.mean(numbers)) if numbers else math.nan
    for key in _SUMS:
        if key in joined:
            joined[key] = sum(row.get(key, 0) for row in rows)
    if returns := [row[_RETURN] for row in rows if _RETURN in row]:
        joined |= {_RETURN: float(np.mean(returns)), LOWEST: min(returns), HIGHEST: max(returns)}
    return joined
