"""Statistics over all rows of a data set, by which observations and rewards are normalized offline.

They are frozen: computed once, in float64, over the whole data set. What a rebalanced batch has more of does not count
more.
"""

from collections.abc import Callable

import numpy as np

from podrl.data.data_set import DataSet


class RowStatistics:
    """The count, mean and variance of rows that come in parts, in float64.

    Source: Chan et al. 1983, Algorithms for computing the sample variance, The American Statistician 37(3).
    """

    def __init__(self, shape: tuple[int, ...]):
        """Starts without rows of this shape."""
        self.count, self.mean, self._squares = 0, np.zeros(shape), np.zeros(shape)

    def add(self, rows: np.ndarray) -> None:
        """Adds rows [N, ...]."""
        if not len(rows):
            return
        rows = rows.astype(np.float64)
        mean, total = rows.mean(axis=0), self.count + len(rows)
        shift = mean - self.mean
        self._squares += np.square(rows - mean).sum(axis=0) + np.square(shift) * (self.count * len(rows) / total)
        self.mean = self.mean + shift * (len(rows) / total)
        self.count = total

    @property
    def variance(self) -> np.ndarray:
        """The variance; ones before the first row."""
        return self._squares / self.count if self.count else np.ones_like(self.mean)


def data_statistics(
    data: DataSet, discount: float, beat: Callable[[], object] = lambda: None
) -> tuple[dict[str, RowStatistics], RowStatistics]:
    """Computes the statistics of the rows that an action was taken on.

    Args:
        data: The data set.
        discount: The discount of past rewards, in [0, 1].
        beat: Called after each read.

    Returns:
        Those of the observations' float columns, by name, and those of the discounted sums of rewards so far,
        G[t] = reward[t] + discount * G[t - 1].

    Raises:
        DataError: If a shard is damaged.
    """
    observations = {
        name: RowStatistics(column.shape)
        for name, column in data.spec.columns.items()
        if name.split("/")[0] == "observation" and np.issubdtype(column.dtype, np.floating)
    }
    returns, first = RowStatistics(()), 0
    for episodes, rows in data.read(np.arange(data.num_episodes)):
        length = data.facts.length[first : first + episodes]
        first += episodes
        acted = np.ones(len(rows["reward"]), bool)
        acted[np.cumsum(length + 1) - 1] = False  # The last row of each episode has no action.
        for name, statistics in observations.items():
            statistics.add(rows[name][acted])
        returns.add(_discounted_sums(rows["reward"], acted, discount)[acted])
        beat()
    return observations, returns


def _discounted_sums(reward: np.ndarray, acted: np.ndarray, discount: float) -> np.ndarray:
    """Returns the discounted sum of an episode's rewards up to each row, [N] float64; 0 behind an episode's steps."""
    total, sums = 0.0, np.zeros(len(reward))
    for index, (earned, is_step) in enumerate(zip(reward.tolist(), acted.tolist(), strict=True)):
        total = earned + discount * total if is_step else 0.0
        sums[index] = total
    return sums
