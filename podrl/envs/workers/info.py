"""Numbers of environments' `info` over their episodes: what the patterns of `log.info_keys` ask for."""

from collections.abc import Mapping, Sequence
import math
from typing import Any

import numpy as np

from podrl.config.config import ConfigError
from podrl.envs.workers.calls import describe_value, number_of
from podrl.envs.workers.info_keys import InfoKey, KeyedPaths

_EXTREMES = {"max": np.fmax, "min": np.fmin}  # They ignore NaN.

# By environment, its index in the pool, and then by name, which is a path with the pattern's statistic before it.
Numbers = Mapping[int, Mapping[str, float]]


class InfoTally:
    """Collects the numbers of the episodes of `B` environments that step together."""

    def __init__(self, keys: Sequence[str], num_envs: int, *, warns: bool = True) -> None:
        """Starts an episode in every environment.

        Args:
            keys: `log.info_keys`.
            num_envs: B.
            warns: whether to log keys that match nothing in the first episode.
        """
        self._paths = KeyedPaths(keys)
        self._num_envs = num_envs
        self._warns = warns
        self._reads_all_steps = any(key.statistic for key in self._paths.keys)
        self._totals: dict[tuple[InfoKey, str], np.ndarray] = {}  # [B] by key and path.
        self._counts: dict[tuple[InfoKey, str], np.ndarray] = {}  # [B] numbers behind sums.

    def add_rows(self, infos: Sequence[Mapping[str, Any]], first: np.ndarray, ended: np.ndarray) -> Numbers:
        """Adds a step whose `info` is a dictionary for each environment.

        Args:
            infos: [B] dictionaries.
            first: [B] bool; the step was a reset.
            ended: [B] bool; it ended the environment's episode.

        Returns:
            The numbers of the episodes that ended.

        Raises:
            ConfigError: if a key names what is no number.
        """
        columns: dict[str, np.ndarray] = {}
        for env in np.flatnonzero(~first if self._reads_all_steps else ended).tolist():
            if not isinstance(infos[env], Mapping):
                raise ConfigError(
                    f"log.info_keys needs info: step() must return a dictionary; found {describe_value(infos[env])}."
                )
            for path, value in self._paths.items(infos[env]):
                number = number_of(value)
                if number is None and value is not None:
                    self._paths.refuse(path, value)
                elif number is not None and math.isfinite(number):
                    columns.setdefault(path, np.full(self._num_envs, np.nan))[env] = number
        return self._add(columns, ended)

    def add_columns(self, info: Mapping[str, Any], first: np.ndarray, ended: np.ndarray) -> Numbers:
        """Does what `add_rows` does, with an `info` of arrays [B], one for all environments."""
        if not (self._reads_all_steps or ended.any()):
            return {}
        columns: dict[str, np.ndarray] = {}
        for path, value in self._paths.items(info):
            column = np.asarray(value)
            if column.shape == (self._num_envs,) and column.dtype.kind in "biuf":
                columns[path] = np.where(first | ~np.isfinite(column), np.nan, column.astype(np.float64))
            else:
                self._paths.refuse(path, column[0] if column.ndim else value)
        return self._add(columns, ended)

    def _add(self, columns: Mapping[str, np.ndarray], ended: np.ndarray) -> Numbers:
        """Adds the numbers of a step by path, [B] float64 with NaN where they are missing."""
        last = {}
        for path, column in columns.items():
            self._paths.count(path)
            for key in self._paths.keys_of(path):
                if key.statistic:
                    self._accumulate(key, path, column)
                else:
                    last[path] = column
        if not ended.any():
            return {}
        if self._warns:
            self._warns = False
            self._paths.warn_of_unmatched()
        over_steps = {key.name_of(path): self._value(key, path) for key, path in self._totals}
        found = dict(sorted({**over_steps, **last}.items()))
        numbers = {
            int(env): {name: float(column[env]) for name, column in found.items() if math.isfinite(column[env])}
            for env in np.flatnonzero(ended)
        }
        for (key, path), total in self._totals.items():
            total[ended], self._counts[key, path][ended] = _empty(key), 0
        return numbers

    def _accumulate(self, key: InfoKey, path: str, column: np.ndarray) -> None:
        """Adds [B] numbers to a statistic; those that are missing change nothing."""
        if (key, path) not in self._totals:
            self._totals[key, path] = np.full(self._num_envs, _empty(key))
            self._counts[key, path] = np.zeros(self._num_envs, np.int64)
        total = self._totals[key, path]
        if key.statistic in _EXTREMES:
            _EXTREMES[key.statistic](total, column, out=total)
            return
        there = ~np.isnan(column)
        total += np.where(there, column, 0.0)
        self._counts[key, path] += there

    def _value(self, key: InfoKey, path: str) -> np.ndarray:
        """Returns a statistic [B] of the episodes so far; NaN where there is none."""
        total = self._totals[key, path]
        if key.statistic in _EXTREMES:
            return total
        count = np.where(self._counts[key, path] > 0, self._counts[key, path], np.nan)
        return total / (count if key.statistic == "mean" else np.sign(count))


def _empty(key: InfoKey) -> float:
    """Returns the total of no numbers."""
    return math.nan if key.statistic in _EXTREMES else 0.0
