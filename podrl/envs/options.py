"""Checks an environment's options against the values that they have by default."""

from typing import Any

from podrl.config.config import check
from podrl.config.ranges import check_option


def checked_option(name: str, value: Any, default: Any) -> Any:
    """Returns an option's value in the type of its default; integers may stand for floats, and lists for tuples.

    Raises:
        ConfigError: if it has another type, or lies outside the range that options of this name have everywhere.
    """
    expected = type(default)
    if (expected is float and type(value) is int) or (
        isinstance(default, list | tuple) and isinstance(value, list | tuple)
    ):
        value = expected(value)
    check(
        type(value) is expected,
        f"env.options.{name}={value!r} has type {type(value).__name__}; expected {expected.__name__}.",
    )
    check_option(name, value)
    return value
