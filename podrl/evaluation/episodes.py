"""Which episodes of an evaluation count, and their statistics.

They are chosen before the first step: the first `n` of each environment, the same number of each. The first `N`
episodes to *end* would favour short ones, which in most games are the bad ones.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from podrl.config.config import Config
from podrl.experience.episodes import Episode
from podrl.ops.intervals import mean_interval
from podrl.types import Timestep

MAX_ENVS = 32  # More would save little time and, since all step until the last has ended, waste much.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Episodes:
    """The episodes that count, environment by environment.

    Attributes:
        returns: [N] float64, undiscounted.
        lengths: [N] int64, in env steps.
        numbers: [N] numbers of `info` that `log.info_keys` asks for, by name; empty if it asks for none.
    """

    returns: np.ndarray
    lengths: np.ndarray
    numbers: Sequence[Mapping[str, float]] = ()


class Tally:
    """Collects the first episodes of every environment.

    The reset row that follows shows that an episode has ended, whether it was terminated or truncated.
    """

    def __init__(self, num_envs: int, episodes_per_env: int) -> None:
        """Starts with the first episode of every environment."""
        self._wanted = episodes_per_env
        self._returns = np.zeros(num_envs, np.float64)
        self._lengths = np.zeros(num_envs, np.int64)
        self._numbers: dict[int, Mapping[str, float]] = {}  # Of episodes that have ended, until the row after.
        self._ended: list[list[Episode]] = [[] for _ in range(num_envs)]

    @property
    def count(self) -> int:
        """Number of finished episodes that count."""
        return sum(map(len, self._ended))

    @property
    def is_full(self) -> bool:
        """Whether every environment has played its episodes."""
        return self.count == self._wanted * len(self._ended)

    def add(self, timestep: Timestep, ended_numbers: Mapping[int, Mapping[str, float]] | None = None) -> None:
        """Adds the next timestep of all environments, and the numbers of the episodes that ended with it."""
        for env in np.flatnonzero(timestep.first & (self._lengths > 0)).tolist():
            numbers = self._numbers.pop(env, {})
            if len(self._ended[env]) < self._wanted:
                self._ended[env].append(Episode(float(self._returns[env]), int(self._lengths[env]), numbers))
        self._numbers.update(ended_numbers or {})
        self._returns = np.where(timestep.first, 0.0, self._returns + timestep.reward)
        self._lengths = np.where(timestep.first, 0, self._lengths + 1)

    def episodes(self) -> Episodes:
        """Returns all episodes that count."""
        returns, lengths, numbers = zip(*(episode for ended in self._ended for episode in ended), strict=True)
        return Episodes(
            returns=np.array(returns, np.float64),
            lengths=np.array(lengths, np.int64),
            numbers=numbers if any(numbers) else (),
        )


def split_episodes(episodes: int, max_envs: int = MAX_ENVS) -> tuple[int, int]:
    """Returns (environments, episodes of each) for at least this many episodes, or as few more as possible."""
    per_env = -(-episodes // max_envs)
    return -(-episodes // per_env), per_env


def numbers_of_evaluation(config: Config, num_envs: int, *, beside_run: bool = False) -> range:
    """Returns the numbers of an evaluation's environments, which no others have that run at once.

    They follow those of training. `podrl.config.env_numbers` says what they are for.

    Args:
        config: The run's config.
        num_envs: Environments of the evaluation, at most `MAX_ENVS`.
        beside_run: Whether it is none of the run's own evaluations, which may be in progress; its numbers follow these.
    """
    first = config.actors.num_envs + (MAX_ENVS if beside_run else 0)
    return range(first, first + num_envs)


def summarize_episodes(episodes: Episodes) -> dict[str, Any]:
    """Returns statistics of the returns and lengths as plain numbers; `interval` is None for a single episode.

    `info` has those of the numbers of `info`, if there are any, over the episodes that have them.
    """
    returns, lengths = episodes.returns, episodes.lengths
    summary = {
        "episodes": len(returns),
        "return": {
            **_mean(returns),
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
    return summary | ({"info": _summarize_numbers(episodes.numbers)} if episodes.numbers else {})


def _summarize_numbers(episodes: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Returns statistics of each number over the episodes that have it, by name."""
    found: dict[str, Any] = {}
    for name in sorted({name for numbers in episodes for name in numbers}):
        values = np.array([numbers[name] for numbers in episodes if name in numbers])
        found[name] = {**_mean(values), "episodes": len(values)}
    return found


def _mean(values: np.ndarray) -> dict[str, Any]:
    """Returns the mean of [N] values and its interval."""
    interval = mean_interval(values)
    return {"mean": float(values.mean()), "interval": None if interval is None else list(interval)}
