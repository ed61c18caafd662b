"""A window of episodes for data sets that are larger than memory.

The episodes of a data set stand in a shuffled order, another one each time that all of them have passed. The window is
the next of them, as many as its rows hold, and moves on as updates are made. Where it stands at an update depends on
the seed and the update alone.

Draws come from the window only, so neighbours in time are drawn from the same episodes: a window is a bias, which
shrinks as it grows.
"""

import dataclasses
import functools

import numpy as np

from podrl.config.config import check
from podrl.ops.keys import DATA

_ORDERS = 4  # Shuffled orders that are kept: a window lies in two of them at most.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Window:
    """How large a window is, and how it moves.

    Attributes:
        rows: Rows that it holds at most, one more for each episode than it has steps; 0 for the whole data set.
        episodes: Episodes that it moves on by.
        updates: Updates after which it does.
    """

    rows: int = 0
    episodes: int = 1
    updates: int = 1


class WindowPlan:
    """Which episodes are in the window at an update.

    Attributes:
        is_whole: Whether the window has the whole data set, in its own order, and never moves.
        rows: Rows that it takes in memory at most.
    """

    def __init__(self, window: Window, length: np.ndarray, seed: int):
        """Plans the windows of a run.

        Args:
            window: How large it is.
            length: [E]; steps of each episode.
            seed: The run's seed.

        Raises:
            ConfigError: If an episode is larger than the window.
        """
        self._window, self._rows, self._seed = window, length + 1, seed
        total, longest = int(self._rows.sum()), int(self._rows.max())
        self.is_whole = window.rows == 0 or window.rows >= total
        self.rows = total if self.is_whole else window.rows
        check(
            longest <= self.rows,
            f"data.window={window.rows} rows is smaller than the longest episode, which has {longest}. Raise it.",
        )
        self._fill = functools.lru_cache(_ORDERS)(self._fill_from)
        self._order = functools.lru_cache(_ORDERS)(self._shuffle)

    def at(self, update: int) -> range:
        """Returns the places of the window's episodes in the endless shuffled order, as `episodes` takes them."""
        if self.is_whole:
            return range(len(self._rows))
        return self._fill(update // self._window.updates * self._window.episodes)

    def episodes(self, places: range) -> np.ndarray:
        """Returns the numbers of the episodes at some places, [len(places)] int64."""
        if self.is_whole:
            return np.arange(places.start, places.stop)
        num = len(self._rows)
        parts = []
        for time in range(places.start // num, -(-places.stop // num)):
            order = self._order(time)
            parts.append(order[max(places.start - time * num, 0) : places.stop - time * num])
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _fill_from(self, first: int) -> range:
        """Returns the places of the episodes that fit into a window that begins with place `first`."""
        most = min(self.rows // int(self._rows.min()), 2 * len(self._rows))
        ends = np.cumsum(self._rows[self.episodes(range(first, first + most))])
        return range(first, first + int(np.searchsorted(ends, self.rows, side="right")))

    def _shuffle(self, time: int) -> np.ndarray:
        return np.random.default_rng((self._seed, DATA, time)).permutation(len(self._rows))
