"""Gymnax environments of the user's own, which a config names as `module:Class`."""

from collections.abc import Callable, Mapping
import dataclasses
import inspect
from typing import Any

from podrl.config.config import ConfigError, check, did_you_mean
from podrl.envs.workers.importable import type_name
from podrl.runtime.user_imports import import_named


def find_own(env_id: str) -> Callable[..., Any] | None:
    """Returns the class or function that `module:Name` names, from Python's path or the working folder.

    Returns:
        What makes the environment; None if the id is not of this form.

    Raises:
        ConfigError: If there is no such module or name, or it makes no environments of Gymnax's interface.
    """
    module_name, colon, name = env_id.rpartition(":")
    if not colon:
        return None
    module = import_named(module_name, f"env.id={env_id!r}")
    known = sorted(key for key, value in vars(module).items() if _is_own(value, module_name))
    check(
        hasattr(module, name),
        f"env.id={env_id!r}: module {module_name!r} has no {name!r}{did_you_mean(name, known)}"
        + (f" Environments in that module: {', '.join(known)}." if known else ""),
    )
    creator = getattr(module, name)
    check(
        callable(creator) and (not inspect.isclass(creator) or _is_environment(creator)),
        f"env.id={env_id!r} is no gymnax.environments.environment.Environment: derive it, or name a function that "
        "returns one.",
    )
    return creator


def make_own_env(env_id: str, creator: Callable[..., Any], arguments: Mapping[str, Any]) -> tuple[Any, Any]:
    """Returns an environment and its parameters, with values of their own.

    Raises:
        ConfigError: If it cannot be made, or its parameters are not Gymnax's.
    """
    try:
        env = creator(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"env.id={env_id!r} cannot be made: {' '.join(str(error).split())}") from error
    check(
        _is_environment(type(env)),
        f"env.id={env_id!r} made a {type_name(env)}; expected a gymnax.environments.environment.Environment.",
    )
    params = env.default_params
    check(
        dataclasses.is_dataclass(params) and hasattr(params, "max_steps_in_episode") and hasattr(params, "replace"),
        f"env.id={env_id!r}: its default_params are of type {type_name(params)}; expected a "
        "gymnax.environments.environment.EnvParams, with max_steps_in_episode.",
    )
    return env, params


def _is_environment(kind: type) -> bool:
    from gymnax.environments.environment import Environment  # Only the source knows whether Gymnax is installed.

    return issubclass(kind, Environment)


def _is_own(value: Any, module_name: str) -> bool:
    return inspect.isclass(value) and value.__module__ == module_name and _is_environment(value)
