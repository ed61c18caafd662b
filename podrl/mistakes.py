"""Mistakes of a user's: what a config or a command line got wrong, said in one clear line."""

from collections.abc import Iterable, Sequence
import difflib
from typing import Any

MISTAKE = 2  # Exit code.
_SHOWN = 80  # Characters.


class ConfigError(ValueError):
    """A mistake in a config or on the command line: one clear line for the user, and exit code `MISTAKE`."""


def check(condition: bool, message: str) -> None:
    """Raises `ConfigError(message)` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


def check_one_of(key: str, value: str, choices: Iterable[str]) -> None:
    """Raises `ConfigError` that lists `choices`, and the nearest first, if `value` is none of them."""
    names = sorted(choices)
    if value not in names:
        raise ConfigError(
            f"{key}={shown(value)} is not known{did_you_mean(value, names)} Available: {', '.join(names)}."
        )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` where some `known` word is close, else a full stop.

    It costs nothing where `word` is known itself, as where a check's message is made before it is needed.
    """
    names = list(known)
    is_mistaken = isinstance(word, str) and len(word) <= _SHOWN and word not in names
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5) if is_mistaken else []
    return f"; did you mean {close[0]!r}?" if close else "."


def shown(value: Any) -> str:
    """A value as Python writes it, of which the middle is left out where that is long: anything may be in a config."""
    digits = value.bit_length() // 4 if isinstance(value, int) else 0
    if digits > _SHOWN:  # Python prints no integer of more than some thousand digits.
        return f"a whole number of some {round(value.bit_length() * 0.30103):,} digits"
    try:
        text = repr(value)
    except ValueError:  # Such an integer is inside.
        text = f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]} ... {text[-_SHOWN // 4 :]}"


def shorten(texts: Sequence[str], limit: int = 5) -> str:
    """The first few, and how many more there are."""
    more = [f"and {len(texts) - limit} more"] if len(texts) > limit else []
    return "; ".join([*texts[:limit], *more])
