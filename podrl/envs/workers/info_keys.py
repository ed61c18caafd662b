"""The patterns of `log.info_keys`, and what they match in an environment's `info`.

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
from typing import Any

from absl import logging

from podrl.config.config import check
from podrl.envs.workers.calls import describe_value

STATISTICS = ("max", "mean", "min", "sum")
MOST_PATHS = 100  # That one pattern may find: each becomes a curve of its own.
_SHOWN = 20  # Paths in a message.


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


class KeyedPaths:
    """What the keys of a run ask for, in all `info` seen so far."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Reads `log.info_keys`."""
        self.keys = [read_info_key(text) for text in keys]
        self._wanted: dict[str, tuple[InfoKey, ...]] = {}  # By path, of paths seen.
        self._numbers: set[str] = set()  # Paths with numbers.

    def keys_of(self, path: str) -> tuple[InfoKey, ...]:
        """Returns the keys that ask for a path."""
        if path in self._wanted:
            return self._wanted[path]
        found = tuple(key for key in self.keys if key.matches(path))
        if found or len(self._wanted) < MOST_PATHS * len(self.keys):  # An environment may have new names in every step.
            self._wanted[path] = found
        return found

    def items(self, info: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
        """Yields path and value of all that any key asks for.

        Raises:
            ConfigError: if a key names a dictionary.
        """
        for name, value in info.items():
            path = f"{prefix}{name}"
            if not isinstance(value, Mapping):
                if self.keys_of(path):
                    yield path, value
                continue
            check(
                all(key.pattern != path for key in self.keys),
                f"log.info_keys: {path!r} is a dictionary in the environment's info; expected a number. Its entries "
                f"are '{path}/*'.",
            )
            yield from self.items(value, f"{path}/")

    def count(self, path: str) -> None:
        """Notes that there is a number at a path.

        Raises:
            ConfigError: if a key asks for too many.
        """
        if path in self._numbers:
            return
        self._numbers.add(path)
        for key in self.keys_of(path):
            found = [number for number in self._numbers if key.matches(number)]
            check(
                len(found) <= MOST_PATHS,
                f"log.info_keys: {str(key)!r} matches more than {MOST_PATHS} numbers in the environment's info, such "
                f"as {', '.join(sorted(found)[:3])}. Name fewer.",
            )

    def refuse(self, path: str, value: Any) -> None:
        """Raises `ConfigError` if a key names this path, whose value is no number."""
        check(
            not any(key.is_name for key in self.keys_of(path)),
            f"log.info_keys: {path!r} is {describe_value(value)} in the environment's info; expected a number. Leave "
            "it out, or let a wrapper (env.wrappers) make a number of it.",
        )

    def warn_of_unmatched(self) -> None:
        """Logs keys that have matched nothing so far: they may be misspelt."""
        matched = {key for keys in self._wanted.values() for key in keys}
        if missing := [repr(str(key)) for key in self.keys if key not in matched]:
            shown = ", ".join([*self._wanted][:_SHOWN]) + (", ..." if len(self._wanted) > _SHOWN else "")
            _warn_once(", ".join(missing), shown or "nothing")


@functools.cache  # All pools of a process find the same.
def _warn_once(missing: str, found: str) -> None:
    logging.warning("log.info_keys: nothing in the first episode's info matches %s. It has: %s.", missing, found)
