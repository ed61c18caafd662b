"""Values of config keys from the command line, with errors that name the key."""

import math
from typing import Any

import ml_collections

from podrl.config.config import ConfigError, check, shown
from podrl.config.marks import Typed
from podrl.config.values import read, read_items


def read_key(key: str, text: str, hint: Any) -> Any:
    """The value of a key, as it was typed.

    Raises:
        ConfigError: if it is no such value, or no finite number; names the key.
    """
    try:
        value = read(text, hint)
    except ValueError as error:
        raise ConfigError(f"{key}={shown(str(text))} {error}") from None
    check(not isinstance(value, float) or math.isfinite(value), f"{key}={shown(str(text))} is not a finite number.")
    return value


def read_section(key: str, text: str) -> dict[str, Typed]:
    """The entries of a dictionary as they were typed, by name. Raises as `read_key`."""
    try:
        return read_items(text)
    except ValueError as error:
        raise ConfigError(f"{key}={shown(str(text))} {error}") from None


def to_section(key: str, values: dict[str, Any]) -> ml_collections.ConfigDict:
    """A dictionary as a section of a config.

    Raises:
        ConfigError: on a name with a dot, which would be a section of its own; names the key.
    """
    try:
        return ml_collections.ConfigDict(values)
    except ValueError:
        raise ConfigError(f"{key}={shown(values)} has a name with a dot; expected names without.") from None
