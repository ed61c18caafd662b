"""The number of an environment in its job, for what must differ between environments that run at once, such as ports.

In texts of `env.options`, and in arguments of wrappers, `{env_number}` stands for the number of the environment, and
`{env_number+5000}` for 5000 more. A text that is nothing else becomes the number; in a longer text it becomes digits.

Environments of training have the numbers from 0 to `actors.num_envs - 1`, over all processes, actors and pools, and
keep them where a run resumes. `podrl.evaluation.making` says which those of evaluations have.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import re
from typing import Any

from podrl.config.reading import read_key
from podrl.config.sections import EnvConfig
from podrl.mistakes import check

_NUMBER = re.compile(r"\{\s*env_number\s*(?:\+\s*(\d{1,9})\s*)?\}")
_IN_WRAPPER = re.compile(rf"""(["']?){_NUMBER.pattern}\1""")  # Also one that is all of a quoted text.
_BEGUN = re.compile(r"\{\s*env_number")


def is_numbered(text: Any) -> bool:
    """Returns whether a value is a text with the number of an environment."""
    return isinstance(text, str) and bool(_BEGUN.search(text))


def read_numbered(key: str, text: str) -> str | None:
    """Returns an option's text that was typed, without quotes, if it contains the number, whatever its type is to be.

    None for others, and for lists and dictionaries, in which such texts are in quotes.
    """
    text = text.strip()
    is_container = text[:1] in ("(", "[", "{") and not _BEGUN.match(text)
    return None if is_container or not is_numbered(text) else str(read_key(key, text, str))


def numbered_keys(config: EnvConfig) -> dict[str, str]:
    """Returns a text with the number of the environment for each key of `env` that has any, the last one of it.

    Raises:
        ConfigError: if one asks for anything else than the number, or a sum of it and a whole number.
    """
    places = [("options." + name, value) for name, value in config.options.items()]
    places += [("wrappers", config.wrappers), ("training_wrappers", config.training_wrappers)]
    found = [(f"env.{key}", text) for key, value in places for text in _texts(value) if is_numbered(text)]
    for key, text in found:
        check(
            not _BEGUN.search(_NUMBER.sub("", text)),
            f"{key}: {str(text)!r} cannot be read; an environment's number is {{env_number}}, or {{env_number+5000}}.",
        )
    return dict(found)


def with_number(config: EnvConfig, number: int) -> EnvConfig:
    """Returns the config of the environment with this number; `config` itself if it does not ask for the number."""
    if not numbered_keys(config):
        return config
    return dataclasses.replace(
        config,
        options={name: _filled(value, number) for name, value in config.options.items()},
        wrappers=tuple(_digits(_IN_WRAPPER, text, number) for text in config.wrappers),
        training_wrappers=tuple(_digits(_IN_WRAPPER, text, number) for text in config.training_wrappers),
    )


def _texts(value: Any) -> Iterator[str]:
    """Yields the texts in an option's value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(entry)


def _filled(value: Any, number: int) -> Any:
    """Returns an option's value with the number in its texts."""
    if isinstance(value, Mapping):
        return {name: _filled(entry, number) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_filled(entry, number) for entry in value)
    if not isinstance(value, str):
        return value
    filled = _digits(_NUMBER, value, number)
    return int(filled) if _NUMBER.fullmatch(value.strip()) else filled


def _digits(pattern: re.Pattern[str], text: str, number: int) -> str:
    """Returns a text with the number instead of what matches; its last group is what is added."""
    return pattern.sub(lambda match: str(number + int(match.groups()[-1] or 0)), text)
