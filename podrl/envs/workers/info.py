"""Numbers of environments' `info` over their episodes: what the patterns of `log.info_keys` ask for.

A pattern is matched with the *paths* of `info`: its keys, those of nested dictionaries joined by slashes. `*`, `?` and
`[...]` are wildcards as in file names, except that `*` matches slashes too. A pattern by itself asks for an episode's
number at its last step; `max:`, `mean:`, `min:` or `sum:` in front of it for that of all of its steps. What a reset
returns counts for neither.

Bools and scalars of any library are numbers. What is None or not finite counts as missing, and an episode in which all
of a path's numbers are missing has none. Other things, such as arrays and texts, are an error where a pattern without
wildcards names them, and are passed over where one with wildcards matches.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import fnmatch
import functools
import math
from typing import Any

from absl import logging
import numpy as np

from podrl.config.config import ConfigError
from podrl.envs.workers.calls import describe_value, number_of

STATISTICS = ("max", "mean", "min", "sum")
_EXTREMES = {"max": np.fmax, "min": np.fmin}  # They ignore NaN.
_SHOWN = 20  # Paths in a message.

# By environment, its index in the pool, and then by name, which is a path with the pattern's statistic before it.
Numbers = Mapping[int, Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class InfoKey:
    """One of `log.info_keys`.

    Attributes:
        statistic: one of `STATISTICS`; empty for the number at the last step.
        pattern: the pattern, with which paths are matched.
    """

    statistic: str
    pattern: str

    @property
    def is_name(self) -> bool:
        """Whether the pattern has no wildcards."""
        return not set("*?[") & set(self.pattern)

    def __str__(self) -> str:
        return self.name_of(self.pattern)

    def matches(self, path: str) -> bool:
        """Returns whether the number at a path is asked for."""
        return path == self.pattern or fnmatch.fnmatchcase(path, self.pattern)

    def name_of(self, path: str) -> str:
        """Returns what the number of a path is called."""
        return f"{self.statistic}:{path}" if self.statistic else path


def read_info_key(text: str) -> InfoKey:
    """Returns the key that a text such as `success` or `max:success` stands for."""
    statistic, colon, pattern = text.partition(":")
    return InfoKey(statistic, pattern) if colon and statistic in STATISTICS else InfoKey("", text)


class InfoTally:
    """Collects the numbers of the episodes of `B` environments that step together."""

    def __init__(self, keys: Sequence[str], num_envs: int, *, warns: bool = True) -> None:
        """Starts an episode in every environment.

        Args:
            keys: `log.info_keys`.
            num_envs: B.
            warns: whether to log keys that match nothing in the first episode.
        """
        self._keys = [read_info_key(text) for text in keys]
        self._num_envs = num_envs
        self._warns = warns
        self._reads_all_steps = any(key.statistic for key in self._keys)
        self._wanted: dict[str, tuple[InfoKey, ...]] = {}  # By path, of all paths seen.
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
            for path, value in self._wanted_items(infos[env]):
                number = number_of(value)
                if number is None and value is not None:
                    self._refuse(path, value)
                elif number is not None and math.isfinite(number):
                    columns.setdefault(path, np.full(self._num_envs, np.nan))[env] = number
        return self._add(columns, ended)

    def add_columns(self, info: Mapping[str, Any], first: np.ndarray, ended: np.ndarray) -> Numbers:
        """Does what `add_rows` does, with an `info` of arrays [B], one for all environments."""
        if not (self._reads_all_steps or ended.any()):
            return {}
        columns: dict[str, np.ndarray] = {}
        for path, value in self._wanted_items(info):
            column = np.asarray(value)
            if column.shape == (self._num_envs,) and column.dtype.kind in "biuf":
                columns[path] = np.where(first | ~np.isfinite(column), np.nan, column.astype(np.float64))
            else:
                self._refuse(path, column[0] if column.ndim else value)
        return self._add(columns, ended)

    def _wanted_items(self, info: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
        """Yields path and value of all that any key asks for."""
        for name, value in info.items():
            path = f"{prefix}{name}"
            if isinstance(value, Mapping):
                if any(key.pattern == path for key in self._keys):
                    raise ConfigError(
                        f"log.info_keys: {path!r} is a dictionary in the environment's info; expected a number. Its "
                        f"entries are '{path}/*'."
                    )
                yield from self._wanted_items(value, f"{path}/")
                continue
            if path not in self._wanted:
                self._wanted[path] = tuple(key for key in self._keys if key.matches(path))
            if self._wanted[path]:
                yield path, value

    def _refuse(self, path: str, value: Any) -> None:
        """Raises `ConfigError` if a key names this path, whose value is no number."""
        if any(key.is_name for key in self._wanted[path]):
            raise ConfigError(
                f"log.info_keys: {path!r} is {describe_value(value)} in the environment's info; expected a number. "
                "Leave it out, or let a wrapper (env.wrappers) make a number of it."
            )

    def _add(self, columns: Mapping[str, np.ndarray], ended: np.ndarray) -> Numbers:
        """Adds the numbers of a step by path, [B] float64 with NaN where they are missing."""
        last = {}
        for path, column in columns.items():
            for key in self._wanted[path]:
                if key.statistic:
                    self._accumulate(key, path, column)
                else:
                    last[path] = column
        if not ended.any():
            return {}
        self._warn_of_unmatched()
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

    def _warn_of_unmatched(self) -> None:
        """Logs keys that match nothing in the first episode: they may be misspelt."""
        if self._warns:
            self._warns = False
            matched = {key for keys in self._wanted.values() for key in keys}
            if missing := [repr(str(key)) for key in self._keys if key not in matched]:
                shown = ", ".join([*self._wanted][:_SHOWN]) + (", ..." if len(self._wanted) > _SHOWN else "")
                _warn_once(", ".join(missing), shown or "nothing")


@functools.cache  # All pools of a process find the same.
def _warn_once(missing: str, found: str) -> None:
    logging.warning("log.info_keys: nothing in the first episode's info matches %s. It has: %s.", missing, found)


def _empty(key: InfoKey) -> float:
    """Returns the total of no numbers."""
    return math.nan if key.statistic in _EXTREMES else 0.0
