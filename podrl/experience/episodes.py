"""Returns and lengths of finished episodes: counted while environments step, and averaged over the newest."""

import collections
from collections.abc import Iterable, Mapping
import math
from typing import Any

import numpy as np
from numpy import typing as npt

Episode = tuple[float, int]  # Return, length in env steps.


class EpisodeTracker:
    """Accumulates the return and length of the episodes of `B` environments, in the actor thread that steps them.

    A termination is known at once (`discount` is 0); a truncation shows only in the `first` of the row after it. Rows
    that open an episode are resets: their reward and their step do not count.
    """

    def __init__(self, num_envs: int) -> None:
        """Starts an empty episode in each of `num_envs` (B) environments."""
        self._returns = np.zeros(num_envs, np.float64)
        self._lengths = np.zeros(num_envs, np.int64)

    def step(self, reward: npt.ArrayLike, discount: npt.ArrayLike, first: npt.ArrayLike) -> list[tuple[float, int]]:
        """Adds one timestep, and returns the episodes that ended with it.

        Args:
            reward: [B] raw reward; ignored where `first`.
            discount: [B] 0 where this step terminated the episode; ignored where `first`.
            first: [B] bool; the row opens an episode.

        Returns:
            (return, length in env steps) of each finished episode: truncated before terminated, then by environment.
        """
        first = np.asarray(first)
        truncated = self._close(first & (self._lengths > 0))
        self._returns += np.where(first, 0.0, reward)
        self._lengths += ~first
        return truncated + self._close(~first & (np.asarray(discount) == 0))

    def _close(self, ended: np.ndarray) -> list[tuple[float, int]]:
        """Returns the episodes of the environments where `ended` [B], and resets their counts to zero."""
        if not ended.any():
            return []
        episodes = list(zip(self._returns[ended].tolist(), self._lengths[ended].tolist(), strict=True))
        self._returns[ended] = 0.0
        self._lengths[ended] = 0
        return episodes


class EpisodeWindow:
    """Statistics of the newest `size` finished episodes."""

    def __init__(self, size: int, record: Mapping[str, Any] | None = None) -> None:
        """Creates an empty window, or one that continues from a `record`."""
        record = record or {"newest": [], "count": 0}
        episodes = ((float(total), int(length)) for total, length in record["newest"])
        self._episodes: collections.deque[tuple[float, int]] = collections.deque(episodes, maxlen=size)
        self._count = int(record["count"])

    def __len__(self) -> int:
        return len(self._episodes)

    def add(self, returns: Iterable[float], lengths: Iterable[int], *, older: int = 0) -> None:
        """Adds finished episodes, oldest first: undiscounted returns, and lengths in env steps.

        `older` is the number of earlier episodes that these push out of the window; they add to the count only.
        """
        episodes = [(float(total), int(length)) for total, length in zip(returns, lengths, strict=True)]
        self._episodes.extend(episodes)
        self._count += len(episodes) + older

    def record(self) -> dict[str, Any]:
        """Returns the window as plain numbers, for a checkpoint: the newest (return, length), and the count of all."""
        return {"newest": [list(episode) for episode in self._episodes], "count": self._count}

    def summary(self) -> dict[str, float]:
        """Returns the count of all episodes, and the window's mean and largest return and mean length.

        Before the first episode there is only the count, `episode/count`.
        """
        if not self._episodes:
            return {"episode/count": self._count}
        returns, lengths = zip(*self._episodes, strict=True)
        return {
            "episode/return": math.fsum(returns) / len(returns),
            "episode/return_max": max(returns),
            "episode/length": sum(lengths) / len(lengths),
            "episode/count": self._count,
        }


def recorded_return(record: Mapping[str, Any]) -> float | None:
    """Returns the mean return of the episodes in a window's `record`; None if there are none."""
    window = EpisodeWindow(size=len(record.get("newest", ())), record=record)
    return window.summary().get("episode/return")
