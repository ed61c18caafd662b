"""Values of config keys from the command line, with errors that name the key."""

import math
from typing import Any

import ml_collections

from podrl.config.config import ConfigError, check, shown
from podrl.config.marks import Typed
from podrl.config.values import read, read_items


def read_key(key: str, text: str, hint: Any) -> Any:
    """Returns the value of a key from the text typed for it.

    Raises:
        ConfigError: if the text is no such value, or no finite number; the message names the key.
    """
    try:
        value = read(text, hint)
    except ValueError as error:
        raise ConfigError(f"{key}={shown(str(text))} {error}") from None
    check(not isinstance(value, float) or math.isfinite(value), f"{key}={shown(str(text))} is not a finite number.")
    return value


def read_section(key: str, text: str) -> dict[str, Typed]:
    """Returns the entries of a dictionary by name, each as it was typed. Raises as `read_key` does."""
    try:
        return read_items(text)
    except ValueError as error:
        raise ConfigError(f"{key}={shown(str(text))} {error}") from None


def to_section(key: str, values: dict[str, Any]) -> ml_collections.ConfigDict:
    """Returns a dictionary as a section of a config.

    Raises:
        ConfigError: on a name with a dot, which would be a section of its own; the message names the key.
    """
    try:
        return ml_collections.ConfigDict(values)
    except ValueError:
        raise ConfigError(f"{key}={shown(values)} has a name with a dot; expected names without.") from None
