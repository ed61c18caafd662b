"""Mistakes of a user's in a config or on a command line, each reported in one clear line."""

from collections.abc import Iterable, Sequence
import difflib
from typing import Any

MISTAKE = 2  # Exit code.
_SHOWN = 80  # Characters.


class ConfigError(ValueError):
    """A mistake in a config or on the command line: one clear line for the user, and exit code `MISTAKE`."""


class NoModuleError(ConfigError):
    """A config names a module that is not on Python's path."""


def check(condition: bool, message: str) -> None:
    """Raises `ConfigError(message)` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


def check_one_of(key: str, value: str, choices: Iterable[str], more: str = "") -> None:
    """Raises `ConfigError`, which suggests the nearest, lists all `choices` and ends in `more`, if `value` is none."""
    names = sorted(choices)
    if value not in names:
        raise ConfigError(
            f"{key}={shown(value)} is not known{did_you_mean(value, names)} Available: {', '.join(names)}.{more}"
        )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns `; did you mean 'x'?` if some `known` word is close, otherwise a full stop.

    It costs nothing if `word` is known itself, since messages of checks are made before they are needed.
    """
    names = list(known)
    is_mistaken = isinstance(word, str) and len(word) <= _SHOWN and word not in names
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5) if is_mistaken else []
    return f"; did you mean {close[0]!r}?" if close else "."


def shown(value: Any) -> str:
    """Returns a value as Python writes it, with the middle of a long one left out: configs may hold anything."""
    digits = value.bit_length() // 4 if isinstance(value, int) else 0
    if digits > _SHOWN:  # Python refuses to print integers of more than some thousand digits.
        return f"a whole number of some {round(value.bit_length() * 0.30103):,} digits"
    try:
        text = repr(value)
    except ValueError:  # The value contains such an integer.
        text = f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]} ... {text[-_SHOWN // 4 :]}"


def shorten(texts: Sequence[str], limit: int = 5) -> str:
    """Joins the first few texts and says how many more there are."""
    more = [f"and {len(texts) - limit} more"] if len(texts) > limit else []
    return "; ".join([*texts[:limit], *more])
