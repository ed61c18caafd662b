"""Agents by name: `config.agent.name = 'impala'` imports `podrl.agents.impala`."""

from collections.abc import Iterable
import dataclasses
import importlib
import pkgutil
from types import ModuleType
from typing import Any

from podrl import agents
from podrl.config.config import ConfigError, check_one_of


def load_agent(name: str) -> ModuleType:
    """Imports `podrl.agents.<name>`.

    Raises:
        ConfigError: if there is no such module; lists those that there are.
    """
    check_one_of("agent.name", name, agent_names())
    return importlib.import_module(f"{agents.__name__}.{name}")


def agent_names() -> list[str]:
    """All agents of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(agents.__path__) if not module.ispkg)


def agent_defaults(name: str) -> dict[str, Any]:
    """Returns the default of each hyper-parameter; empty for an unknown agent, and where JAX cannot be imported."""
    if name not in agent_names():
        return {}
    try:
        return dataclasses.asdict(load_agent(name).AgentConfig())
    except ImportError:
        return {}


def check_keys(name: str, keys: Iterable[object]) -> None:
    """Raises `ConfigError` if an `agent` section was written for another agent than `name`; says where to start.

    Keys that no agent has are left to others.
    """
    own = _keys(name)
    for key in keys:
        owners = [other for other in agent_names() if key not in own and key in _keys(other)]
        if owners:
            raise ConfigError(
                f"agent.name={name!r} does not go with this config: its agent.{key} is a key of {owners[0]!r}. Start "
                f"from a config of its own, such as configs/{name}_catch.py, instead of changing agent.name."
            )


def _keys(name: str) -> set[str]:
    return {field.name for field in dataclasses.fields(load_agent(name).AgentConfig)}
