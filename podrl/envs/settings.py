"""podrl's own settings of an environment, and the options that are passed to its constructor.

`env.max_episode_steps`, `env.workers`, `env.worker_timeout_s`, `env.wrappers` and `env.training_wrappers` mean the same
for every source, and never reach an environment's constructor, which gets `env.options` only. A source names the
settings that it supports in `Source.settings`; the others are refused instead of ignored.

Options from the command line are read here, since only the source knows their types: its
`Source.option_hints(config)` returns a type hint for each option that the environment takes, by name.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from absl import logging

from podrl.config.config import ENV_SETTINGS, Config, ConfigError, EnvConfig, check
from podrl.config.env_numbers import numbered_keys, read_numbered
from podrl.config.marks import Changed, Inherited, Typed
from podrl.config.reading import read_key
from podrl.envs.source import Source, load_source

# Sources that play the same games with the same options.
_SAME_OPTIONS = {"ale", "envpool"}

_NOT_GYMNASIUM = "its environments are not gymnasium.Env objects; use env.source=gymnasium"
_INSTEAD = {
    "max_episode_steps": "its episodes are as long as the source makes them",
    "workers": "its environments are not stepped from Python; env.source=gymnasium has workers",
    "worker_timeout_s": "its environments are not stepped from Python; env.source=gymnasium has workers",
    "wrappers": _NOT_GYMNASIUM,
    "training_wrappers": _NOT_GYMNASIUM,
}


def check_settings(source: Source, config: EnvConfig) -> None:
    """Checks that the source supports every setting of podrl's that `config` changes.

    Args:
        source: a source module, whose `SETTINGS` names the settings that it supports; without it, none.
        config: the environment's config.

    Raises:
        ConfigError: if it does not support one; the message names it.
    """
    defaults = EnvConfig(id=config.id)
    for name in ENV_SETTINGS:
        value = getattr(config, name)
        check(
            name in source.settings or value == getattr(defaults, name),
            f"env.{name}={value!r} has no effect with env.source={config.source!r}: {_INSTEAD[name]}.",
        )


def check_info_keys(source: Source, config: Config) -> None:
    """Raises `ConfigError` if `log.info_keys` asks for numbers that the run's environments do not give."""
    if not config.log.info_keys:
        return
    remedy = f"Clear log.info_keys={config.log.info_keys}, by --config.log.info_keys= on the command line"
    check(
        source.gives_info,
        f"env.source={config.env.source!r} gives no numbers of its environments' info. {remedy}, or use a source that "
        "does, such as gymnasium or envpool.",
    )


def settle(source: Source, config: EnvConfig) -> EnvConfig:
    """Returns the config with options that the environment's constructor accepts.

    Values typed on the command line are read. What a config file says of another environment is kept if both are of one
    family, and otherwise left out with a line in the log: options if the new environment does not take all of them,
    other keys of `env` if it takes other options.

    Args:
        source: a source module.
        config: the environment's config, whose options may be marked (`podrl.config.marks`).

    Raises:
        ConfigError: if the source does not support a setting, or a value has the wrong type for the environment.
    """
    before = config.id.env_id if isinstance(config.id, Changed) else ""
    config, dropped = _without_settings_of_another(source, config)
    check_settings(source, config)
    if any(isinstance(value, Typed | Inherited) for value in config.options.values()):
        config, options = _with_settled_options(source, config)
        dropped += options
    for key, text in numbered_keys(config).items():
        check(
            source.gives_numbers,
            f"{key}: {text!r} asks for the environment's number, and env.source={config.source!r} gives none; "
            "env.source=gymnasium does.",
        )
    if dropped:
        logging.info("env.id=%s: left out what the config file has for %s: %s.", config.id, before, ", ".join(dropped))
    return config


def _with_settled_options(source: Source, config: EnvConfig) -> tuple[EnvConfig, list[str]]:
    """Returns the config with options as values, and the keys of options of another family, which are left out."""
    plain = {name: value for name, value in config.options.items() if not isinstance(value, Typed | Inherited)}
    hints = _option_hints(source, dataclasses.replace(config, options=plain))
    inherited = {name: value for name, value in config.options.items() if isinstance(value, Inherited)}
    dropped = inherited if _are_of_another(inherited, config.source, hints) else {}
    options = {name: _settled(name, value, hints) for name, value in config.options.items() if name not in dropped}
    return dataclasses.replace(config, options=options), [f"env.options.{name}" for name in dropped]


def _without_settings_of_another(source: Source, config: EnvConfig) -> tuple[EnvConfig, list[str]]:
    """Returns the config without keys of `env` that its file has for another family, and the names of these keys."""
    changed = config.id
    if not isinstance(changed, Changed):
        return config, []
    config = dataclasses.replace(config, id=str(changed))
    defaults = EnvConfig(id=config.id)
    own = {name: getattr(defaults, name) for name in changed.inherited}
    others = [name for name, value in own.items() if getattr(config, name) != value]
    if not others or _is_of_one_family(source, config, changed):
        return config, []
    return dataclasses.replace(config, **own), [f"env.{name}" for name in others]


def _is_of_one_family(source: Source, config: EnvConfig, changed: Changed) -> bool:
    """Returns whether the environment takes the options of the one that it replaces, by name; False if unknown."""
    sources = {config.source, changed.source}
    if len(sources) > 1 and not sources <= _SAME_OPTIONS:
        return False
    try:
        of_before = _option_hints(load_source(changed.source), EnvConfig(source=changed.source, id=changed.env_id))
    except ConfigError:  # Its package may be missing.
        return False
    now = (_option_hints(source, dataclasses.replace(config, options={})) or {}).keys() - {"render_mode"}
    before = (of_before or {}).keys() - {"render_mode"}
    return bool(now) and (now == before or (len(sources) > 1 and (now <= before or before <= now)))


def _option_hints(source: Source, config: EnvConfig) -> Mapping[str, Any] | None:
    """Returns type hints for the environment's options; None if its source has none."""
    return None if source.option_hints is None else source.option_hints(config)


def _are_of_another(inherited: Mapping[str, Inherited], source: str, hints: Mapping[str, Any] | None) -> bool:
    """Returns whether options were meant for another family of environments than the one with these `hints`."""
    sources = {source, *(option.source for option in inherited.values())}
    if len(sources) > 1 and not sources <= _SAME_OPTIONS:
        return True
    return hints is not None and not hints.keys() >= inherited.keys()


def _settled(name: str, value: Any, hints: Mapping[str, Any] | None) -> Any:
    if isinstance(value, Inherited):
        return value.value
    if not isinstance(value, Typed):
        return value
    key = f"env.options.{name}"
    return read_numbered(key, value) or read_key(key, value, (hints or {}).get(name, value.like))


def wrapper_facts(config: EnvConfig) -> dict[str, Any]:
    """Returns the wrappers that stay in evaluation, for its report: what they do to rewards is part of every score."""
    return {"wrappers": ", ".join(config.wrappers)} if config.wrappers else {}
