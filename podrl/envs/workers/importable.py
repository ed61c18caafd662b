"""Checks that worker processes can import what a config names: a notebook may define it itself."""

from collections.abc import Sequence
from typing import Any

import gymnasium

from podrl.config.config import check
from podrl.config.wrappers import parse_wrapper


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
