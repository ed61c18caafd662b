"""Config keys from the command line: `--config.env.id=Pong-v5` on what a config file says.

Keys of podrl's are read by their own types, those of an agent by the file's values. What an option of an environment
has to be only the environment knows: it is kept as it was typed (`podrl.marks.Text`) until its source is at hand, see
`podrl.envs.settings`.
"""

from collections.abc import Mapping, Sequence
import copy
import dataclasses
import math
import typing
from typing import Any

import ml_collections

from podrl.config import Config, ConfigError, check, did_you_mean, shown
from podrl.config_dict import to_plain
from podrl.hints import hint_of, members
from podrl.marks import Inherited, Text
from podrl.values import read, read_items

_OPTIONS = "env.options"


def override(config: ml_collections.ConfigDict, arguments: Sequence[str]) -> ml_collections.ConfigDict:
    """Applies arguments such as `--config.env.id=Pong-v5`, one after the other; returns a new ConfigDict.

    Options that a file has for another environment than the one that is asked for are marked as `Inherited`.

    Raises:
        ConfigError: on a key that the config does not have, or a value that its type does not take.
    """
    before = _environment(config)
    config = copy.deepcopy(config)
    chosen: set[str] = set()
    for argument in arguments:
        key, has_value, text = argument.lstrip("-").removeprefix("config.").partition("=")
        if key == _OPTIONS or key.startswith(f"{_OPTIONS}."):
            check(bool(has_value), f"Config key {key!r} needs a value: --config.{key}=VALUE.")
            chosen |= _set_option(config, key.removeprefix(_OPTIONS).lstrip("."), text)
        else:
            _check_key(config, key, has_value)
            _set(config, key.split("."), _read(key, text, _hint(config, key)))
    if before != _environment(config):
        _mark_inherited(config, before, chosen)
    return config


def listing(config: ml_collections.ConfigDict) -> str:
    """A line for each value of a config."""
    keys = [key for key in _keys(config) if not isinstance(_find(config, key), ml_collections.ConfigDict)]
    return "".join(f"  {key} = {_find(config, key)!r}\n" for key in keys)


def _environment(config: ml_collections.ConfigDict) -> tuple[str, str]:
    """Source and id."""
    env = config.get("env", {})
    return env.get("source", "envpool"), env.get("id", "")


def _set_option(config: ml_collections.ConfigDict, path: str, text: str) -> set[str]:
    """Sets one option, an entry of one that is a dictionary, or all of them; returns the names of those set."""
    if not path:
        options = _items(_OPTIONS, text)
        _set(config, ["env", "options"], ml_collections.ConfigDict(options))
        return set(options)
    name, *inner = path.split(".")
    existing = _find(config, f"{_OPTIONS}.{name}")
    if inner:
        if isinstance(existing, Text):
            _set(config, ["env", "options", name], ml_collections.ConfigDict(_items(f"{_OPTIONS}.{name}", existing)))
        entry = _find(config, f"{_OPTIONS}.{path}")
        _set(config, ["env", "options", name, *inner], _read(f"{_OPTIONS}.{path}", text, hint_of(entry)))
        return {name}
    typed = Text(text)
    typed.like = hint_of(to_plain(existing), is_signature=True)
    _set(config, ["env", "options", name], typed)
    return {name}


def _items(key: str, text: str) -> dict[str, Text]:
    """The entries of a dictionary as they were typed, by key."""
    try:
        return read_items(text)
    except ValueError as error:
        raise ConfigError(f"{key}={shown(text)} {error}") from None
    except RecursionError:
        raise ConfigError(f"{key}={shown(text)} is nested too deeply.") from None


def _read(key: str, text: str, hint: Any) -> Any:
    """The value of a key."""
    try:
        value = read(text, hint)
    except ValueError as error:
        raise ConfigError(f"{key}={shown(text)} {error}") from None
    except RecursionError:
        raise ConfigError(f"{key}={shown(text)} is nested too deeply.") from None
    check(not isinstance(value, float) or math.isfinite(value), f"{key}={shown(text)} is not a finite number.")
    return value


def _mark_inherited(config: ml_collections.ConfigDict, before: tuple[str, str], chosen: set[str]) -> None:
    """Marks the options that the file has for the environment `before`; its source decides what becomes of them."""
    options = config.env.get("options", {})
    for name in [name for name in options if name not in chosen]:
        _set(config, ["env", "options", name], Inherited(to_plain(options[name]), *before))


def _check_key(config: ml_collections.ConfigDict, key: str, has_value: str) -> None:
    """Raises ConfigError unless the key exists; suggests the nearest, or the one of that name in another section."""
    known = list(dict.fromkeys([*_keys(config), *_own_hints()]))
    same_name = [k for k in known if k.rpartition(".")[2] == key.rpartition(".")[2]]
    hint = f"; did you mean {same_name[0]!r}?" if same_name else did_you_mean(key, known)
    check(key in known, f"Unknown config key {key!r}{hint}")
    check(bool(has_value), f"Config key {key!r} needs a value: --config.{key}=VALUE.")
    section = isinstance(_find(config, key), ml_collections.ConfigDict) or dataclasses.is_dataclass(
        _own_hints().get(key)
    )
    check(not section, f"Config key {key!r} is a section; set a key in it: --config.{key}.KEY=VALUE.")


def _hint(config: ml_collections.ConfigDict, key: str) -> Any:
    """What the value of a key has to be."""
    own = _own_hints().get(key, Any)
    return own if Any not in members(own) else hint_of(_find(config, key))


def _own_hints() -> dict[str, Any]:
    """Podrl's own keys, with the types that they have whatever a config file says; not those of agents."""
    found: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(Config).items():
        if dataclasses.is_dataclass(hint):
            inner = typing.get_type_hints(hint)
            found |= {f"{name}.{field.name}": inner[field.name] for field in dataclasses.fields(hint)}
        elif name != "agent":
            found[name] = hint
    return found


def _keys(config: ml_collections.ConfigDict) -> list[str]:
    """All dotted keys, sections included."""
    keys = []
    for name, value in config.items():
        keys.append(name)
        if isinstance(value, ml_collections.ConfigDict):
            keys += [f"{name}.{inner}" for inner in _keys(value)]
    return keys


def _find(config: Any, key: str) -> Any:
    """The value of a dotted key; None if there is none."""
    for part in key.split("."):
        if not isinstance(config, Mapping | ml_collections.ConfigDict) or part not in config:
            return None
        config = config[part]
    return config


def _set(config: ml_collections.ConfigDict, path: Sequence[str], value: Any) -> None:
    """Sets a value, whatever type was there, and makes sections on the way."""
    *sections, name = path
    with config.ignore_type(), config.unlocked():
        for section in sections:
            if not isinstance(config.get(section), ml_collections.ConfigDict):
                config[section] = ml_collections.ConfigDict()
            config = config[section]
    with config.ignore_type(), config.unlocked():
        config[name] = value
