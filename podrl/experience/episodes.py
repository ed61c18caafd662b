"""Finished episodes: counted while environments step, and averaged over the newest."""

import collections
from collections.abc import Collection, Iterable, Mapping, Sequence
import math
from typing import Any, NamedTuple

import numpy as np
from numpy import typing as npt

INFO = "info/"  # Before the names of numbers of `info` in rows.


class Episode(NamedTuple):
    """A finished episode.

    Attributes:
        total: undiscounted return.
        length: env steps.
        numbers: numbers of `info` that `log.info_keys` asks for, by name, and that this episode has.
    """

    total: float
    length: int
    numbers: Mapping[str, float] = {}


class EpisodeTracker:
    """Accumulates the return and length of the episodes of `B` environments, in the actor thread that steps them.

    A termination is known at once (`discount` is 0); a truncation shows only in the `first` of the row after it. Rows
    that open an episode are resets: their reward and their step do not count.
    """

    def __init__(self, num_envs: int) -> None:
        """Starts an empty episode in each of `num_envs` (B) environments."""
        self._returns = np.zeros(num_envs, np.float64)
        self._lengths = np.zeros(num_envs, np.int64)
        self._numbers: dict[int, Mapping[str, float]] = {}  # Of truncated episodes, until the row after.

    def step(
        self,
        reward: npt.ArrayLike,
        discount: npt.ArrayLike,
        first: npt.ArrayLike,
        numbers: Mapping[int, Mapping[str, float]] | None = None,
    ) -> list[Episode]:
        """Adds one timestep, and returns the episodes that ended with it.

        Args:
            reward: [B] raw reward; ignored where `first`.
            discount: [B] 0 where this step terminated the episode; ignored where `first`.
            first: [B] bool; the row opens an episode.
            numbers: numbers of `info` of the episodes that ended with this step, truncated ones too, by environment.

        Returns:
            The finished episodes: truncated before terminated, then by environment.
        """
        first = np.asarray(first)
        truncated = self._close(first & (self._lengths > 0))
        self._numbers.update(numbers or {})
        self._returns += np.where(first, 0.0, reward)
        self._lengths += ~first
        return truncated + self._close(~first & (np.asarray(discount) == 0))

    def _close(self, ended: np.ndarray) -> list[Episode]:
        """Returns the episodes of the environments where `ended` [B], and resets their counts to zero."""
        if not ended.any():
            return []
        episodes = [
            Episode(float(self._returns[env]), int(self._lengths[env]), self._numbers.pop(env, {}))
            for env in np.flatnonzero(ended).tolist()
        ]
        self._returns[ended] = 0.0
        self._lengths[ended] = 0
        return episodes


class EpisodeWindow:
    """Statistics of the newest `size` finished episodes."""

    def __init__(self, size: int, record: Mapping[str, Any] | None = None) -> None:
        """Creates an empty window, or one that continues from a `record`."""
        record = record or {"newest": [], "count": 0}
        numbers = record.get("numbers", [{}] * len(record["newest"]))
        episodes = (
            Episode(float(total), int(length), own)
            for (total, length), own in zip(record["newest"], numbers, strict=True)
        )
        self._episodes: collections.deque[Episode] = collections.deque(episodes, maxlen=size)
        self._count = int(record["count"])

    def __len__(self) -> int:
        return len(self._episodes)

    def add(self, episodes: Collection[Episode], *, older: int = 0) -> None:
        """Adds finished episodes, oldest first.

        `older` is the number of earlier episodes that these push out of the window; they add to the count only.
        """
        self._episodes.extend(episodes)
        self._count += len(episodes) + older

    def record(self) -> dict[str, Any]:
        """Returns the window as plain numbers, for a checkpoint: the newest (return, length), and the count of all.

        Numbers of `info` are a list beside the newest, if there are any.
        """
        numbers = [dict(episode.numbers) for episode in self._episodes]
        newest = [[episode.total, episode.length] for episode in self._episodes]
        return {"newest": newest, "count": self._count} | ({"numbers": numbers} if any(numbers) else {})

    def summary(self) -> dict[str, float]:
        """Returns the count of all episodes, and the window's mean and largest return, mean length and mean numbers.

        Before the first episode there is only the count, `episode/count`.
        """
        if not self._episodes:
            return {"episode/count": self._count}
        returns, lengths, numbers = zip(*self._episodes, strict=True)
        return {
            "episode/return": math.fsum(returns) / len(returns),
            "episode/return_max": max(returns),
            "episode/length": sum(lengths) / len(lengths),
            "episode/count": self._count,
            **{f"episode/{INFO}{name}": mean for name, mean in mean_numbers(numbers).items()},
        }


def mean_numbers(episodes: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Returns the mean of each number over the episodes that have it, by name in alphabetical order."""
    found: dict[str, list[float]] = {}
    for numbers in episodes:
        for name, number in numbers.items():
            found.setdefault(name, []).append(number)
    return {name: _mean(found[name]) for name in sorted(found)}


def _mean(numbers: Sequence[float]) -> float:
    try:
        return math.fsum(numbers) / len(numbers)
    except OverflowError:  # The sum of numbers may be infinite where their mean is not.
        return math.fsum(number / len(numbers) for number in numbers)


def recorded_return(record: Mapping[str, Any]) -> float | None:
    """Returns the mean return of the episodes in a window's `record`; None if there are none."""
    window = EpisodeWindow(size=len(record.get("newest", ())), record=record)
    return window.summary().get("episode/return")
