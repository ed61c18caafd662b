"""Configs as nested plain values: `ml_collections.ConfigDict` for users, JSON on disk, dataclasses everywhere else.

A config file returns a ConfigDict from `get_config()` and the command line overrides it. `from_config_dict` turns it
once into the dataclasses of `podrl.config.config` and checks every key and type.
"""

from collections.abc import Mapping
import copy
import dataclasses
import json
import typing
from typing import Any, TypeVar

import ml_collections

from podrl.config.config import (
    ENV_SETTINGS,
    Config,
    ConfigError,
    EnvConfig,
    check,
    check_counts,
    shown,
)
from podrl.config.keys import check_keys_known
from podrl.config.marks import Typed
from podrl.config.reading import read_key
from podrl.config.renamed import RENAMED, with_new_names
from podrl.config.smoke import shrink

_T = TypeVar("_T")

_MISSING = object()  # Differs from None, which JSON's null becomes.
_TOO_LARGE = 10**300  # Integers from here on do not convert to float.


def from_config_dict(config: ml_collections.ConfigDict, agent_type: type) -> Config:
    """Turns a ConfigDict into frozen dataclasses; keys that it leaves out have the defaults of these.

    Args:
        config: the result of `get_config()`, with overrides applied.
        agent_type: the dataclass of the `agent` section.

    Raises:
        ConfigError: on an unknown, missing or wrongly typed key, or a value out of range.
    """
    values = as_values(config)
    check_keys_known(values, agent_type)
    parsed = _parse(Config, values, "", {"agent": agent_type})
    parsed = shrink(parsed) if parsed.smoke else parsed
    check_counts(parsed, parsed.num_updates)
    parsed.rewards.check_updates(parsed.num_updates)
    return parsed


def read_resolved(values: Mapping[str, Any], agent_type: type) -> Config:
    """Turns what `to_dict` gave and JSON restored into the same dataclasses again; raises as `from_config_dict`."""
    check_keys_known(values, agent_type)
    return _parse(Config, values, "", {"agent": agent_type})


def as_values(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns a ConfigDict as nested plain values.

    Raises:
        ConfigError: if the config file requires a value from the command line, which has none.
    """
    try:
        return to_plain(config)
    except ml_collections.config_dict.RequiredValueError:
        raise ConfigError(f"Config key {_find_open(config)} has no value, and the config file requires one.") from None


def default_sections() -> dict[str, ml_collections.ConfigDict]:
    """Returns podrl's defaults for the sections that mean the same for every agent and environment."""
    sections: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(Config)}
    sections = {name: kind for name, kind in sections.items() if dataclasses.is_dataclass(kind) and name != "env"}
    return {name: ml_collections.ConfigDict(dataclasses.asdict(section())) for name, section in sections.items()}


def with_defaults(
    values: Mapping[str, Any], agent_config: type | None = None, env_before: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Returns a resolved config that an earlier podrl wrote, completed with the defaults of newer keys.

    Args:
        values: the config as it was written.
        agent_config: dataclass of an algorithm, all of whose fields have defaults; ignored if `values` name another.
        env_before: keys of `env` whose default has changed since they were introduced, with the former meaning; see
            `podrl.types.EnvSpec`.
    """
    values = with_new_names(values)
    own = {field.name: field.default for field in dataclasses.fields(Config)}
    filled = {name: value for name, value in own.items() if value is not dataclasses.MISSING} | dict(values)
    for name, section in default_sections().items():
        filled[name] = section.to_dict() | values.get(name, {})
    if "env" in values:
        filled["env"] = _env_with_defaults({**(env_before or {}), **values["env"]})
    agent = dataclasses.asdict(agent_config()) if agent_config is not None else {}
    if "agent" in values and agent.get("name") == values["agent"].get("name"):
        filled["agent"] = _merge(agent, values["agent"])
    return filled


def read_agent(values: Mapping[str, Any], agent_type: type[_T]) -> _T:
    """Returns the agent's section of a resolved config that an earlier podrl may have written.

    Raises:
        ConfigError: on a value that the agent does not take.
    """
    return _parse(agent_type, with_defaults(values, agent_type).get("agent", {}), "agent.")


def _merge(default: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values with defaults for missing keys."""
    both = {name: (default[name], values[name]) for name in default.keys() & values.keys()}
    sections = {name: _merge(*pair) for name, pair in both.items() if all(isinstance(x, Mapping) for x in pair)}
    return {**default, **values, **sections}


def _env_with_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the section `env`, completed with defaults.

    An earlier podrl kept its own settings among the options of its own sources, and so did Gymnax its time limit.
    """
    defaults = default_env() | dict(values)
    if any(name in values for name in ENV_SETTINGS) or "." in defaults["source"]:
        return defaults
    options = dict(values.get("options", {}))
    if values.get("source") == "gymnax" and "max_steps_in_episode" in options:
        options["max_episode_steps"] = options.pop("max_steps_in_episode")
    moved = {name: options.pop(name) for name in ENV_SETTINGS if options.get(name) is not None}
    return defaults | moved | {"options": options}


def default_env() -> dict[str, Any]:
    """Returns the keys of the section `env` that have a default, with their defaults."""
    section = dataclasses.asdict(EnvConfig(id="any"))
    return {name: value for name, value in section.items() if name != "id"}


def to_dict(config: Any) -> dict[str, Any]:
    """Returns a resolved config as nested plain dicts and lists, ready for JSON."""
    return dataclasses.asdict(config)


def to_plain(value: Any) -> Any:
    """Returns a deep copy of a ConfigDict's value as nested plain values."""
    return copy.deepcopy(value.to_dict() if isinstance(value, ml_collections.ConfigDict) else value)


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Returns the values, as text, of all dotted keys in which two configs differ. As in JSON, tuples are lists."""
    flat = [_flatten(json.loads(json.dumps(config))) for config in (before, after)]
    texts = [{key: str(value) for key, value in config.items()} for config in flat]
    return {
        key: (texts[0].get(key, "not there"), texts[1].get(key, "not there"))
        for key in sorted(flat[0].keys() | flat[1].keys())
        if flat[0].get(key, _MISSING) != flat[1].get(key, _MISSING)
    }


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Returns nested mappings as one mapping with dotted keys."""
    if not isinstance(tree, Mapping):
        return {prefix.rstrip("."): tree}
    return {key: value for name, child in tree.items() for key, value in _flatten(child, f"{prefix}{name}.").items()}


def _find_open(config: ml_collections.ConfigDict) -> str:
    """Returns the dotted key of the first required value that is still missing; empty if there is none."""
    for key in config:
        try:
            value = config[key]
        except ml_collections.config_dict.RequiredValueError:
            return str(key)
        if isinstance(value, ml_collections.ConfigDict) and (inner := _find_open(value)):
            return f"{key}.{inner}"
    return ""


def _parse(cls: type[_T], values: Mapping[str, Any], prefix: str, special: Mapping[str, type] | None = None) -> _T:
    """Builds dataclass `cls` from nested plain values, all of known keys; every error names the key."""
    hints = typing.get_type_hints(cls)
    hints.update(special or {})
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name, field in fields.items():
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        check(
            name in values or optional or dataclasses.is_dataclass(hints[name]),
            f"Config key {prefix}{name} is missing; it has no default.",
        )
    given = {name: _with_default(field, values[name]) for name, field in fields.items() if name in values}
    kwargs = {name: _convert(value, hints[name], prefix + name) for name, value in given.items()}
    for name in fields:
        has_default = fields[name].default_factory is not dataclasses.MISSING
        if name not in values and not has_default and dataclasses.is_dataclass(hints[name]):
            kwargs[name] = _parse(typing.cast(type, hints[name]), {}, f"{prefix}{name}.")
    return cls(**kwargs)


def _with_default(field: dataclasses.Field, value: Any) -> Any:
    """A section's values, with those of its field's own default for keys that are missing."""
    if not isinstance(value, Mapping) or field.default_factory is dataclasses.MISSING:
        return value
    default = field.default_factory()
    is_section = dataclasses.is_dataclass(default) and not isinstance(default, type)
    return {**dataclasses.asdict(default), **value} if is_section else value


def _convert(value: Any, hint: Any, key: str) -> Any:
    """Checks `value` against a type hint; reads what was typed, and converts lists to tuples and ints to floats."""
    if dataclasses.is_dataclass(hint):
        renamed = f" What it was is {RENAMED[key]} now." if key in RENAMED else ""
        check(isinstance(value, Mapping), f"{key}={shown(value)} must be a section with keys of its own.{renamed}")
        return _parse(typing.cast(type, hint), value, f"{key}.")
    if isinstance(value, Typed):
        value = read_key(key, value, hint)
    origin = typing.get_origin(hint)
    if origin is tuple:
        check(isinstance(value, list | tuple), f"{key}={shown(value)} must be a list.")
        return tuple(_convert(item, typing.get_args(hint)[0], f"{key}[{i}]") for i, item in enumerate(value))
    if origin is not None:  # The hint is Mapping[str, Any].
        check(isinstance(value, Mapping), f"{key}={shown(value)} must be a section with keys of its own.")
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        check(abs(value) < _TOO_LARGE, f"{key}={shown(value)} is too large a number.")
        return float(value)
    wrong = not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool)
    check(not wrong, f"{key}={shown(value)} has type {type(value).__name__}; expected {hint.__name__}.")
    return value
