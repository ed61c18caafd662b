"""The keys that a config can have, and what is said about one that it cannot have."""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import difflib
import typing
from typing import Any

from podrl.config.config import Config
from podrl.config.renamed import NEW_MEANINGS, new_name
from podrl.mistakes import ConfigError, shown

_LONGEST = 100  # Characters of a key to compare with others.
_MOST = 3  # Keys that an error message names.


def key_hints(agent_type: type | None = None) -> dict[str, Any]:
    """Returns every dotted key with its type, sections included.

    Args:
        agent_type: the dataclass of the `agent` section; without it of that section only `agent.name` is known.
    """
    hints = dict(_walk(Config, ""))
    if agent_type is None:
        return hints | {"agent.name": str}
    return hints | {"agent": agent_type} | dict(_walk(agent_type, "agent."))


def check_keys_known(values: Mapping[str, Any], agent_type: type) -> None:
    """Raises `ConfigError`, which names the right key, if nested plain values have a key that no config has.

    A section of the agent may be empty although the agent has none of that name: config files begin with one.
    """
    hints, agent = key_hints(agent_type), values.get("agent")
    name_of_agent = agent.get("name") if isinstance(agent, Mapping) else None

    def walk(section: Mapping[Any, Any], prefix: str) -> None:
        for name, value in section.items():
            key = f"{prefix}{name if isinstance(name, str) else shown(name)}"
            if key not in hints:
                if prefix == "agent." and value == {}:
                    continue
                raise ConfigError(describe_unknown(key, hints, name_of_agent))
            if isinstance(value, Mapping) and dataclasses.is_dataclass(hints[key]):
                walk(value, f"{key}.")

    walk(values, "")


def describe_unknown(key: str, known: Iterable[str], agent: Any = None) -> str:
    """Returns an error message that names the right key: by its new name, by its beginning, or the nearest.

    Args:
        key: dotted.
        known: the keys that there are, sections included.
        agent: the agent's name, whose earlier keys are known; without it those of agents are not.
    """
    names = list(known)
    if (new := new_name(key, agent)) in names:
        meaning = f": {NEW_MEANINGS[key]}" if key in NEW_MEANINGS else ""
        return f"Unknown config key {key!r}, which is {new!r} now{meaning}."
    by_last: dict[str, list[str]] = {}
    for name in names:
        if not any(other.startswith(f"{name}.") for other in names):  # A section takes no value.
            by_last.setdefault(name.rpartition(".")[2], []).append(name)
    last = key.rpartition(".")[2]
    near = [last] if last in by_last else difflib.get_close_matches(last[:_LONGEST], by_last, n=1)
    found = [name for same in by_last.values() for name in same if name.startswith(f"{key}_")][:_MOST]
    if near and not found:
        found = difflib.get_close_matches(key[:_LONGEST], by_last[near[0]], n=1, cutoff=0)
    return f"Unknown config key {shown(key)}" + (f"; did you mean {' or '.join(map(repr, found))}?" if found else ".")


def _walk(section: type, prefix: str) -> Iterator[tuple[str, Any]]:
    hints = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        hint = hints[field.name]
        yield f"{prefix}{field.name}", hint
        if dataclasses.is_dataclass(hint):
            yield from _walk(typing.cast(type, hint), f"{prefix}{field.name}.")
