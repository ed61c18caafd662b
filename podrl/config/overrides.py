"""Config keys from the command line: `--config.env.id=Pong-v5` overrides what a config file says.

podrl's own keys are read by their types, an agent's by the types of the file's values. Only the environment knows the
type of one of its options: the option is kept as it was typed (`podrl.config.marks.Typed`) until its source is
available, see `podrl.envs.settings`.
"""

from collections.abc import Mapping, Sequence
import copy
import dataclasses
import typing
from typing import Any

import ml_collections

from podrl.config.config import Config, check, did_you_mean
from podrl.config.config_dict import to_plain
from podrl.config.hints import hint_of, members
from podrl.config.marks import Changed, Inherited, Typed
from podrl.config.optimizer import RENAMED
from podrl.config.reading import read_key, read_section, to_section
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

    If they choose another environment than the file's, what the file says of its own is marked, see
    `podrl.config.marks`.

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
            _set(config, key.split("."), read_key(key, text, _hint(config, key, text)))
            chosen.add(key)
    if before[1] and before != _environment(config):
        _mark_inherited(config, before, chosen)
    return config


def list_values(config: ml_collections.ConfigDict) -> str:
    """Returns one line of text for each value of a config."""
    found = {key: _find(config, key) for key in _keys(config)}
    values = {key: value for key, value in found.items() if not isinstance(value, ml_collections.ConfigDict)}
    return "".join(f"  {key} = {_SETS if value is _SETS else repr(value)}\n" for key, value in values.items())


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
        value = read_key(key, text, hint_of(to_plain(_find(config, key)), is_signature=True))
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


def _check_key(config: ml_collections.ConfigDict, key: str, has_value: str) -> None:
    """Raises `ConfigError` unless the key exists; suggests the nearest, or the one of that name in another section."""
    known = list(dict.fromkeys([*_keys(config), *_own_hints()]))
    same_name = [k for k in known if k.rpartition(".")[2] == key.rpartition(".")[2]]
    hint = f"; did you mean {same_name[0]!r}?" if same_name else did_you_mean(key, known)
    hint = f", which is {RENAMED[key]!r} now." if key in RENAMED and key not in known else hint
    check(key in known, f"Unknown config key {key!r}{hint}")
    check(bool(has_value), f"Config key {key!r} needs a value: --config.{key}=VALUE.")
    section = isinstance(_find(config, key), ml_collections.ConfigDict) or dataclasses.is_dataclass(
        _own_hints().get(key)
    )
    inner = RENAMED.get(key, f"{key}.KEY")
    check(not section, f"Config key {key!r} is a section; set a key in it: --config.{inner}=VALUE.")


def _hint(config: ml_collections.ConfigDict, key: str, text: str) -> Any:
    """Returns the type hint of a key.

    An agent's key that the file sets to a whole number may take decimals as well; the agent checks that later.
    """
    own = _own_hints().get(key, Any)
    if Any not in members(own):
        return own
    *sections, name = key.split(".")
    section = _find(config, ".".join(sections)) if sections else config
    found = _find(config, key)
    hint = section.get_ref(name).get_type() if found is _SETS else hint_of(found)
    return float if hint is int and not _is_whole(text) else hint


def _is_whole(text: str) -> bool:
    """Returns whether a text is a whole number, such as 1e6."""
    try:
        read(text, int)
    except ValueError:
        return False
    return True


def _own_hints() -> dict[str, Any]:
    """Returns podrl's own keys with their types, which no config file changes; agents' keys are not among them."""
    found: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(Config).items():
        if dataclasses.is_dataclass(hint):
            inner = typing.get_type_hints(hint)
            found |= {f"{name}.{field.name}": inner[field.name] for field in dataclasses.fields(hint)}
        elif name != "agent":
            found[name] = hint
    return found


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
