"""Config keys from the command line: `--config.env.id=Pong-v5` overrides what a config file says.

podrl's own keys are read by their types, and an agent's that the file sets by the types of the file's values. Only the
agent knows the type of its other keys, and only the environment that of one of its options: these are kept as they were
typed (`podrl.config.marks.Typed`) until the agent or the source is available, see `podrl.config.config_dict` and
`podrl.envs.settings`.
"""

from collections.abc import Callable, Mapping, Sequence
import copy
import dataclasses
from typing import Any

import ml_collections

from podrl.config.config import ConfigError, check
from podrl.config.config_dict import to_plain
from podrl.config.env_numbers import read_numbered
from podrl.config.keys import describe_unknown, key_hints
from podrl.config.marks import Changed, Inherited, Replaced, Typed
from podrl.config.optimizer import OptimizerConfig
from podrl.config.reading import read_key, read_section, to_section
from podrl.config.renamed import RENAMED
from podrl.config.type_hints import hint_of
from podrl.config.values import read

_OPTIONS = "env.options"
# Keys of `env`, besides options, that suit one family of environments only.
OF_A_FAMILY = (
    "observation_keys",
    "parts",
    "action_mask",
    "channels",
    "uint8",
    "wrappers",
    "training_wrappers",
    "max_episode_steps",
)
_SETS = "(required)"  # Stands for a value that a file leaves to the command line.


def override(config: ml_collections.ConfigDict, arguments: Sequence[str]) -> ml_collections.ConfigDict:
    """Returns a new ConfigDict with arguments such as `--config.env.id=Pong-v5` applied in order.

    If they choose another environment or agent than the file's, what the file says of its own is marked, see
    `podrl.config.marks`.

    Raises:
        ConfigError: on a key that no config has, or a value that its type does not take. What the agent alone knows is
            checked later.
    """
    before, agent = _environment(config), _find(config, "agent.name")
    config = copy.deepcopy(config)
    chosen: set[str] = set()
    for argument in arguments:
        key, has_value, text = argument.lstrip("-").removeprefix("config.").partition("=")
        if key == _OPTIONS or key.startswith(f"{_OPTIONS}."):
            check(bool(has_value), f"Config key {key!r} needs a value: --config.{key}=VALUE.")
            chosen |= _set_option(config, key.removeprefix(_OPTIONS).lstrip("."), text)
        else:
            _check_key(config, key, has_value)
            _set(config, key.split("."), _read(config, key, text))
            chosen.add(key)
    if before[1] and before != _environment(config):
        _mark_inherited(config, before, chosen)
    if isinstance(agent, str) and agent != _find(config, "agent.name"):
        _mark_replaced(config, agent, chosen)
    return config


def list_values(
    config: ml_collections.ConfigDict, agent_defaults: Callable[[str], Mapping[str, Any]] = lambda name: {}
) -> dict[str, str]:
    """Returns each value of a config as text, by its key, its agent's defaults included."""
    defaults = ml_collections.ConfigDict({"agent": agent_defaults(str(_find(config, "agent.name")))})
    found = {key: _find(defaults, key) for key in _keys(defaults)} | {key: _find(config, key) for key in _keys(config)}
    values = {key: value for key, value in found.items() if not isinstance(value, ml_collections.ConfigDict)}
    return {key: str(_SETS) if value is _SETS else repr(value) for key, value in values.items()}


def _environment(config: ml_collections.ConfigDict) -> tuple[str, str]:
    """Returns the environment's source and id; the id is empty where the file leaves it to the command line."""
    source, env_id = (_find(config, f"env.{name}") for name in ("source", "id"))
    return source or "envpool", "" if env_id is _SETS else env_id or ""


def _set_option(config: ml_collections.ConfigDict, path: str, text: str) -> set[str]:
    """Sets one option, an entry of a dictionary option, or all options; returns the keys set."""
    if not path:
        options = read_section(_OPTIONS, text)
        _set(config, ["env", "options"], to_section(_OPTIONS, options))
        return {f"{_OPTIONS}.{option}" for option in options}
    name, *inner = path.split(".")
    existing = _find(config, f"{_OPTIONS}.{name}")
    if inner:
        if isinstance(existing, Typed):
            key = f"{_OPTIONS}.{name}"
            _set(config, ["env", "options", name], to_section(key, read_section(key, existing)))
        key = f"{_OPTIONS}.{path}"
        hint = hint_of(to_plain(_find(config, key)), is_signature=True)
        value = read_numbered(key, text) or read_key(key, text, hint)
        _set(config, ["env", "options", name, *inner], to_section(key, value) if isinstance(value, dict) else value)
        return {f"{_OPTIONS}.{name}"}
    typed = Typed(text)
    typed.like = Any if existing is _SETS else hint_of(to_plain(existing), is_signature=True)
    _set(config, ["env", "options", name], typed)
    return {f"{_OPTIONS}.{name}"}


def _mark_inherited(config: ml_collections.ConfigDict, before: tuple[str, str], chosen: set[str]) -> None:
    """Marks what the file says of the environment `before`; the source decides what becomes of it."""
    changed = Changed(config.env.id)
    changed.source, changed.env_id = before
    changed.inherited = tuple(name for name in OF_A_FAMILY if f"env.{name}" not in chosen and name in config.env)
    with config.unlocked():
        del config.env["id"]  # Assigned over a text, a ConfigDict keeps a plain text.
    _set(config, ["env", "id"], changed)
    options = config.env.get("options", {})
    for name in [name for name in options if f"{_OPTIONS}.{name}" not in chosen]:
        if (value := _find(options, name)) is not _SETS:
            _set(config, ["env", "options", name], Inherited(to_plain(value), *before))


def _mark_replaced(config: ml_collections.ConfigDict, agent: str, chosen: set[str]) -> None:
    """Marks the agent's name if the file has set keys for the agent `agent`, whose numbers may not suit this one."""
    keys = [f"agent.{key}" for key in _keys(config.agent) if key != "name"]
    left = [key for key in keys if key not in chosen and not isinstance(_find(config, key), ml_collections.ConfigDict)]
    if left:
        replaced = Replaced(config.agent.name)
        replaced.agent, replaced.keys = agent, tuple(left)
        with config.unlocked():
            del config.agent["name"]  # As of the environment's id.
        _set(config, ["agent", "name"], replaced)


def _check_key(config: ml_collections.ConfigDict, key: str, has_value: str) -> None:
    """Raises `ConfigError` unless the key exists, or may be the agent's own."""
    hints = key_hints()
    known = list(dict.fromkeys([*_keys(config), *hints]))
    if key not in known and not _may_be_the_agents(config, key):
        known += [f"agent.optimizer.{field.name}" for field in dataclasses.fields(OptimizerConfig)]
        is_elsewhere = any(other.rpartition(".")[2] == key for other in known)
        hint = "" if "." in key or is_elsewhere else f" If it is the agent's, write agent.{key}."
        raise ConfigError(f"{describe_unknown(key, known)}{hint}")
    check(bool(has_value), f"Config key {key!r} needs a value: --config.{key}=VALUE.")
    section = isinstance(_find(config, key), ml_collections.ConfigDict) or dataclasses.is_dataclass(hints.get(key))
    inner = RENAMED.get(key, f"{key}.KEY")
    check(not section, f"Config key {key!r} is a section; set a key in it: --config.{inner}=VALUE.")


def _may_be_the_agents(config: ml_collections.ConfigDict, key: str) -> bool:
    """Returns whether a key is in the agent's section, or in a section of it that does not hold a value already."""
    parts = key.split(".")[:-1]
    sections = [_find(config, ".".join(parts[:count])) for count in range(1, len(parts) + 1)]
    return parts[:1] == ["agent"] and all(isinstance(found, ml_collections.ConfigDict | None) for found in sections)


def _read(config: ml_collections.ConfigDict, key: str, text: str) -> Any:
    """Returns the value of a key from the text typed for it; an agent's that the file does not set as it was typed.

    An agent's key that the file sets to a whole number may take decimals as well; the agent checks that later.
    """
    own, found = key_hints(), _find(config, key)
    if key in own:
        return read_key(key, text, own[key])
    if found is None or isinstance(found, Typed):
        return Typed(text)
    *sections, name = key.split(".")
    section = _find(config, ".".join(sections)) if sections else config
    hint = section.get_ref(name).get_type() if found is _SETS else hint_of(found)
    return read_key(key, text, float if hint is int and not _is_whole(text) else hint)


def _is_whole(text: str) -> bool:
    """Returns whether a text is a whole number, such as 1e6."""
    try:
        read(text, int)
    except ValueError:
        return False
    return True


def _keys(config: ml_collections.ConfigDict) -> list[str]:
    """Returns all dotted keys, sections included."""
    keys = []
    for name in config:
        value = _find(config, name)
        keys.append(name)
        if isinstance(value, ml_collections.ConfigDict):
            keys += [f"{name}.{inner}" for inner in _keys(value)]
    return keys


def _find(config: Any, key: str) -> Any:
    """Returns the value of a dotted key; None if there is none, and `_SETS` if the command line is to set it."""
    for part in key.split("."):
        if not isinstance(config, Mapping | ml_collections.ConfigDict) or part not in config:
            return None
        try:
            config = config[part]
        except ml_collections.config_dict.RequiredValueError:
            return _SETS
    return config


def _set(config: ml_collections.ConfigDict, path: Sequence[str], value: Any) -> None:
    """Sets a value of any type and creates missing sections on the way."""
    *sections, name = path
    with config.ignore_type(), config.unlocked():
        for section in sections:
            if not isinstance(config.get(section), ml_collections.ConfigDict):
                config[section] = ml_collections.ConfigDict()
            config = config[section]
    with config.ignore_type(), config.unlocked():
        config[name] = value
