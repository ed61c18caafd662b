"""Agents by name: `config.agent.name = 'impala'` imports `podrl.agents.impala`."""

from collections.abc import Iterable
import dataclasses
import importlib
import pkgutil
from types import ModuleType
from typing import Any

from podrl import agents
from podrl.config.config import ConfigError, check, check_one_of, shown


def load_agent(name: str) -> ModuleType:
    """Imports `podrl.agents.<name>`, and checks what others read of its `AgentConfig`.

    Raises:
        ConfigError: if there is no such module; lists those that there are. If its `AgentConfig` lacks something.
    """
    check_one_of("agent.name", name, agent_names())
    module = importlib.import_module(f"{agents.__name__}.{name}")
    _check_agent_config(f"podrl/agents/{name}.py", getattr(module, "AgentConfig", None))
    return module


def _check_agent_config(place: str, agent_config: Any) -> None:
    """Raises `ConfigError` unless an agent's config has defaults and says how an update divides its batch."""
    from podrl.agents.parts.interface import UpdateShape  # Imports JAX, which this module's users may not have.

    check(dataclasses.is_dataclass(agent_config), f"{place} has no dataclass AgentConfig. Add one.")
    fields = {field.name: field for field in dataclasses.fields(agent_config)}
    without = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    check(not without, f"{place}: AgentConfig has no default for {', '.join(without)}. Give every field one.")
    shape: Any = getattr(agent_config(), "update_shape", None)
    check(
        isinstance(shape, UpdateShape) and shape.minibatches >= 1 and shape.epochs >= 1,
        f"{place}: AgentConfig.update_shape is {shown(shape)}; expected a property that returns an UpdateShape of at "
        "least one minibatch and one epoch.",
    )
    check(
        shape.epochs == 1 or "epochs" in fields,
        f"{place}: AgentConfig.update_shape has {shape.epochs} epochs, but there is no field of that name. Add it.",
    )


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
