"""Agents by name: `config.agent.name = 'impala'` imports `podrl.agents.impala`, `'my_package.my_agent'` a user's own.

A module that podrl does not ship is found as Python finds it, and in the working folder and beside the config file.
"""

from collections.abc import Mapping
import dataclasses
import importlib
import importlib.util
import pkgutil
from types import ModuleType
from typing import Any

from podrl import agents
from podrl.config.config import ConfigError, check, check_one_of, shown
from podrl.config.config_files import find_example
from podrl.config.marks import Replaced, Typed
from podrl.config.user_modules import add_working_folder
from podrl.mistakes import NoModuleError
from podrl.runtime.user_imports import import_named


def load_agent(name: str) -> ModuleType:
    """Imports `podrl.agents.<name>`, or a user's module of that name, and checks what others read of it.

    Raises:
        NoModuleError: if there is no such module; lists podrl's own.
        ConfigError: if it lacks something that agents have.
    """
    if name in agent_names():
        module = importlib.import_module(f"{agents.__name__}.{name}")
        _check_agent_config(f"podrl/agents/{name}.py", getattr(module, "AgentConfig", None))
        return module
    if not _is_own(name):
        try:
            check_one_of("agent.name", name, agent_names(), " One of your own is 'my_package.my_agent'.")
        except ConfigError as error:
            raise NoModuleError(str(error)) from None
    module = import_named(name, f"agent.name={name!r}")
    _check_own(name, module)
    return module


def _is_own(name: str) -> bool:
    """Returns whether a name is meant as that of a user's module: it has a dot, or there is such a module."""
    add_working_folder()
    try:
        return "." in name or (name.isidentifier() and importlib.util.find_spec(name) is not None)
    except ValueError:  # The running program, `__main__`, is no module that a worker could import.
        return False


def _check_own(name: str, module: ModuleType) -> None:
    """Raises `ConfigError` unless a user's module is an agent whose runs can be found again by its name."""
    place = f"agent.name={name!r}: {getattr(module, '__file__', None) or 'a folder without __init__.py'}"
    make = getattr(module, "make_agent", None)
    check(
        callable(make),
        f"{place} has {'no' if make is None else 'something else named'} make_agent; expected a function "
        "make_agent(config, *, networks, spec, num_envs, num_updates, ahead, partition), and a dataclass AgentConfig.",
    )
    _check_agent_config(place, getattr(module, "AgentConfig", None))
    found = module.AgentConfig().name
    check(found == name, f"{place}: AgentConfig.name is {shown(found)} by default; expected the module's, {name!r}.")


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
    if name not in agent_names() and not _is_own(name):
        return {}
    try:
        module = load_agent(name)
    except ConfigError:
        raise
    except Exception:  # noqa: BLE001 (a JAX that does not fit its machine raises errors of many kinds)
        return {}
    return dataclasses.asdict(module.AgentConfig())


def agent_type(name: str) -> type | None:
    """Returns the dataclass of an agent's hyper-parameters; None where `agent_defaults` has none."""
    return load_agent(name).AgentConfig if agent_defaults(name) else None


def find_config_type(section: object) -> type:
    """Returns the dataclass of a config's section `agent`, as plain values.

    Raises:
        ConfigError: if it names no agent, or was written for another one.
    """
    values = section if isinstance(section, dict) else {}
    name = values.get("name")
    if not isinstance(name, str):
        raise ConfigError(f"agent.name={shown(name)} must be the name of an agent, such as 'impala'.")
    agent_type: type = load_agent(name).AgentConfig
    _check_keys(name, values)
    return agent_type


def _check_keys(name: str, section: Mapping[Any, Any]) -> None:
    """Raises `ConfigError` if an `agent` section was written for another agent than `name`; says where to start.

    Keys that no agent has are left to others.
    """
    own = _keys(name)
    foreign = [key for key, value in section.items() if key not in own and value != {}]
    others = sorted(agent_names(), key=lambda other: -len(_keys(other).intersection(foreign)))  # The likeliest first.
    owners = {key: next((other for other in others if key in _keys(other)), None) for key in foreign}
    example = find_example(name)
    instead = (
        f"Start from a config of its own,{f' such as {example},' if example else ''} instead of changing agent.name."
    )
    for key, owner in owners.items():
        if owner and not _is_typed(section[key]):
            raise ConfigError(
                f"agent.name={name!r} does not go with this config: its agent.{key} is a key of {owner!r}. {instead}"
            )
    if isinstance(name, Replaced):
        raise ConfigError(
            f"agent.name={name!r} does not go with this config, which sets {', '.join(name.keys)} for {name.agent!r}. "
            f"{instead}"
        )
    for key, owner in owners.items():
        if owner:
            raise ConfigError(f"Unknown config key 'agent.{key}' (it is of {owner!r}; agent.name is {name!r}).")


def _is_typed(value: Any) -> bool:
    """Returns whether all of a value was typed on the command line."""
    return all(map(_is_typed, value.values())) if isinstance(value, Mapping) else isinstance(value, Typed)


def _keys(name: str) -> set[str]:
    return {field.name for field in dataclasses.fields(load_agent(name).AgentConfig)}
