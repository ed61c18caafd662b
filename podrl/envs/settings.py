"""What podrl itself does around an environment, and what it hands to its constructor.

`env.max_episode_steps`, `env.workers`, `env.worker_timeout_s`, `env.wrappers` and `env.training_wrappers` mean the same
whatever the source, and never reach an environment's constructor: `env.options` is all that does. A source names those
that it keeps in `SETTINGS`; the others are refused instead of ignored.

Options of the command line are read here, since only the source knows what they have to be: its function
`option_hints(config)` returns a type hint for each option that the environment takes, by name.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from absl import logging

from podrl.config import ENV_SETTINGS, ConfigError, EnvConfig, check
from podrl.marks import Inherited, Text
from podrl.values import read

# Sources that play the same games with the same options.
_SAME_OPTIONS = {"ale", "envpool"}

_NOT_GYMNASIUM = "its environments are not gymnasium.Env objects; use env.source=gymnasium or ale"
_INSTEAD = {
    "max_episode_steps": "its episodes are as long as the source makes them",
    "workers": "its environments are not stepped from Python; env.source=gymnasium and ale have workers",
    "worker_timeout_s": "its environments are not stepped from Python; env.source=gymnasium and ale have workers",
    "wrappers": _NOT_GYMNASIUM,
    "training_wrappers": _NOT_GYMNASIUM,
}


def check_settings(source: Any, config: EnvConfig) -> None:
    """Checks that the source keeps every setting of podrl's that `config` changes.

    Args:
        source: a module; `SETTINGS` are the names of those that it keeps, none if it has no such attribute.
        config: of the environment.

    Raises:
        ConfigError: if it does not keep one; names it.
    """
    kept = getattr(source, "SETTINGS", ())
    defaults = EnvConfig(id=config.id)
    for name in ENV_SETTINGS:
        value = getattr(config, name)
        check(
            name in kept or value == getattr(defaults, name),
            f"env.{name}={value!r} has no effect with env.source={config.source!r}: {_INSTEAD[name]}.",
        )


def settle(source: Any, config: EnvConfig) -> EnvConfig:
    """The config with options that the environment's constructor can be given.

    Reads what was typed on the command line. Options of a config file whose environment is another are kept if that
    environment is of the same family, which takes all of them, and dropped with a line in the log if not.

    Args:
        source: a module.
        config: whose options may be marked (`podrl.marks`).

    Raises:
        ConfigError: if the source does not keep a setting, or a value is not what the environment takes.
    """
    check_settings(source, config)
    if not any(isinstance(value, Text | Inherited) for value in config.options.values()):
        return config
    plain = {name: value for name, value in config.options.items() if not isinstance(value, Text | Inherited)}
    hints = _option_hints(source, dataclasses.replace(config, options=plain))
    inherited = {name: value for name, value in config.options.items() if isinstance(value, Inherited)}
    dropped = inherited if _are_of_another(inherited, config.source, hints) else {}
    if dropped:
        logging.info(
            "env.id=%s: left out the options that the config file has for %s: %s.",
            config.id,
            next(iter(dropped.values())).env_id,
            ", ".join(dropped),
        )
    options = {name: _settled(name, value, hints) for name, value in config.options.items() if name not in dropped}
    return dataclasses.replace(config, options=options)


def _option_hints(source: Any, config: EnvConfig) -> Mapping[str, Any] | None:
    """What the environment's options have to be; None if its source does not tell."""
    find = getattr(source, "option_hints", None)
    return None if find is None else find(config)


def _are_of_another(inherited: Mapping[str, Inherited], source: str, hints: Mapping[str, Any] | None) -> bool:
    """Whether options were meant for another family of environments than the one that has these `hints`."""
    sources = {source, *(option.source for option in inherited.values())}
    if len(sources) > 1 and not sources <= _SAME_OPTIONS:
        return True
    return hints is not None and not hints.keys() >= inherited.keys()


def _settled(name: str, value: Any, hints: Mapping[str, Any] | None) -> Any:
    if isinstance(value, Inherited):
        return value.value
    if not isinstance(value, Text):
        return value
    try:
        return read(value, (hints or {}).get(name, value.like))
    except ValueError as error:
        raise ConfigError(f"env.options.{name}={str(value)!r} {error}") from None


def wrapper_facts(config: EnvConfig) -> dict[str, Any]:
    """The wrappers that stay in evaluation, for its report: what they do to rewards is in every score."""
    return {"wrappers": ", ".join(config.wrappers)} if config.wrappers else {}
