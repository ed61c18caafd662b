"""Imports the modules that a config names, and checks that worker processes can: a notebook may define them itself."""

from collections.abc import Sequence
import importlib
import os
from types import ModuleType
from typing import Any

import gymnasium

from podrl.config.config import ConfigError, check
from podrl.config.user_modules import add_working_folder
from podrl.config.wrappers import parse_wrapper
from podrl.runtime.process_exit import describe_error


def import_named(name: str, key: str) -> ModuleType:
    """Imports a user's module, from Python's path or from the working folder.

    Raises:
        ConfigError: if there is none of that name, or its import fails; the message names it, and any missing module.
    """
    unknown = f"{key}: there is no module {name!r}, neither on Python's path nor in {os.getcwd()}."
    check(all(part.isidentifier() for part in name.split(".")), unknown)
    add_working_folder()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(unknown) from None
        raise ConfigError(f"{key}: module {name!r} needs a module that is not installed: {error}") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{key}: module {name!r} failed while it was imported: {describe_error(error)}") from error


def type_name(value: Any) -> str:
    """Returns the name of a value's type for messages: `my_module.MyEnv`, `int`."""
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def check_importable(env_id: str, wrappers: Sequence[str]) -> None:
    """Checks that an environment and its wrappers are not defined in the program itself, which workers do not import.

    Args:
        env_id: the config's `env.id`.
        wrappers: wrappers around the environment, as `module:Name`.

    Raises:
        ConfigError: if one is.
    """
    modules = {f"env.id={env_id!r}": _module_of(env_id)}
    modules |= {f"The wrapper {path!r}": parse_wrapper("env.wrappers", path).module for path in wrappers}
    for what, module in modules.items():
        check(
            module != "__main__",
            f"{what} is defined in this program or notebook itself (__main__), and env.workers are other processes, "
            "which cannot import that. Move it into a module, as 'my_module:Name', or use env.workers=0.",
        )


def _module_of(env_id: str) -> str:
    """Returns the module that an id names, or in which its registered entry point is; empty if neither is known."""
    module, colon, _ = env_id.rpartition(":")
    spec = None if colon else gymnasium.registry.get(env_id)
    entry = getattr(spec, "entry_point", None)
    return module or (entry.partition(":")[0] if isinstance(entry, str) else getattr(entry, "__module__", ""))
