"""Which episodes of an evaluation count, and their statistics.

They are chosen before the first step: the first `n` of each environment, the same number of each. The first `N`
episodes to *end* would favour short ones, which in most games are the bad ones.
"""

import dataclasses
from typing import Any

import numpy as np

from podrl.ops.intervals import mean_interval
from podrl.types import Timestep

MAX_ENVS = 32  # More would save little time and, since all step until the last has ended, waste much.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Episodes:
    """The episodes that count, environment by environment.

    Attributes:
        returns: [N] float64, undiscounted.
        lengths: [N] int64, in env steps.
    """

    returns: np.ndarray
    lengths: np.ndarray


class Tally:
    """Collects the first episodes of every environment.

    The reset row that follows shows that an episode has ended, whether it was terminated or truncated.
    """

    def __init__(self, num_envs: int, episodes_per_env: int) -> None:
        """Starts with the first episode of every environment."""
        self._wanted = episodes_per_env
        self._returns = np.zeros(num_envs, np.float64)
        self._lengths = np.zeros(num_envs, np.int64)
        self._ended: list[list[tuple[float, int]]] = [[] for _ in range(num_envs)]

    @property
    def count(self) -> int:
        """Number of finished episodes that count."""
        return sum(map(len, self._ended))

    @property
    def is_full(self) -> bool:
        """Whether every environment has played its episodes."""
        return self.count == self._wanted * len(self._ended)

    def add(self, timestep: Timestep) -> None:
        """Adds the next timestep of all environments."""
        for env in np.flatnonzero(timestep.first & (self._lengths > 0)):
            if len(self._ended[env]) < self._wanted:
                self._ended[env].append((float(self._returns[env]), int(self._lengths[env])))
        self._returns = np.where(timestep.first, 0.0, self._returns + timestep.reward)
        self._lengths = np.where(timestep.first, 0, self._lengths + 1)

    def episodes(self) -> Episodes:
        """Returns all episodes that count."""
        returns, lengths = zip(*(episode for ended in self._ended for episode in ended), strict=True)
        return Episodes(returns=np.array(returns, np.float64), lengths=np.array(lengths, np.int64))


def split_episodes(episodes: int, max_envs: int = MAX_ENVS) -> tuple[int, int]:
    """Returns (environments, episodes of each) for at least this many episodes, or as few more as possible."""
    per_env = -(-episodes // max_envs)
    return -(-episodes // per_env), per_env


def summarize_episodes(episodes: Episodes) -> dict[str, Any]:
    """Returns statistics of the returns and lengths as plain numbers; `interval` is None for a single episode."""
    returns, lengths = episodes.returns, episodes.lengths
    interval = mean_interval(returns)
    return {
        "episodes": len(returns),
        "return": {
            "mean": float(returns.mean()),
            "interval": None if interval is None else list(interval),
            "median": float(np.median(returns)),
            "min": float(returns.min()),
            "max": float(returns.max()),
        },
        "length": {
            "mean": float(lengths.mean()),
            "median": float(np.median(lengths)),
            "min": int(lengths.min()),
            "max": int(lengths.max()),
        },
    }
