"""Imports modules that a config names: environments, wrappers, encoders and agents of a user's own. Imports no JAX."""

import importlib
import os
from types import ModuleType

from podrl.config.user_modules import add_working_folder
from podrl.mistakes import ConfigError, NoModuleError, check
from podrl.runtime.process_exit import describe_error


def import_named(name: str, key: str) -> ModuleType:
    """Imports a user's module from Python's path, which has the working folder and that of the config file.

    Args:
        name: the module's dotted name.
        key: the config key and its value, for messages.

    Raises:
        NoModuleError: if there is none of that name.
        ConfigError: if it is no name, or its import fails; the message names it, and any missing module.
    """
    unknown = f"{key}: there is no module {name!r}, neither on Python's path nor in {os.getcwd()}."
    check(all(part.isidentifier() for part in name.split(".")), unknown)
    add_working_folder()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise NoModuleError(unknown) from None
        raise ConfigError(f"{key}: module {name!r} needs a module that is not installed: {error}") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{key}: module {name!r} failed while it was imported: {describe_error(error)}") from error
