"""Config keys by their earlier names, in configs of runs and in studies that an earlier podrl wrote."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from podrl.config.optimizer import OptimizerConfig
from podrl.config.values import read

_WITH_EARLIER_NAMES = ("impala", "ppo")
_AGENTS = {  # Of the agents that were there then.
    "agent.optimizer": "agent.optimizer.name",
    "agent.learning_rate": "agent.optimizer.learning_rate",
    "agent.learning_rate_decay": "agent.optimizer.learning_rate_decay",
    "agent.rmsprop_decay": "agent.optimizer.rmsprop_decay",
    "agent.epsilon": "agent.optimizer.epsilon",
    "agent.epsilon_inside_root": "agent.optimizer.epsilon_inside_root",
    "agent.max_grad_norm": "agent.optimizer.max_grad_norm",
    "agent.micro_batches": "topology.micro_batches",
    "agent.micro_batch_loop": "topology.micro_batch_loop",
    "agent.loop": "topology.step_loop",
}
_SYNCHRONOUS, _LAG, _MAX_LAG = "actors.synchronous", "actors.lag", "actors.max_lag"
RENAMED = {**_AGENTS, _SYNCHRONOUS: _LAG}
# What an earlier value means today, for error messages.
NEW_MEANINGS = {_SYNCHRONOUS: "0 for what was true, 1 for what was false"}


def with_new_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config that an earlier podrl wrote, as nested plain values, with today's names of its keys.

    Keys that an agent did not have then get today's defaults, which mean the same.
    """
    new: dict[str, Any] = {name: dict(part) if isinstance(part, Mapping) else part for name, part in values.items()}
    _rename_lag(new)
    agent, topology = new.get("agent"), new.setdefault("topology", {})
    if not isinstance(agent, dict) or not isinstance(topology, dict) or agent.get("name") not in _WITH_EARLIER_NAMES:
        return new
    earlier = [old for old in _AGENTS if old.removeprefix("agent.") in agent]
    if isinstance(agent.get("optimizer"), Mapping):  # It is a section today.
        earlier.remove("agent.optimizer")
    moved = {_AGENTS[old]: agent.pop(old.removeprefix("agent.")) for old in earlier}
    if any(path.startswith("agent.optimizer.") for path in moved):
        agent["optimizer"] = dataclasses.asdict(OptimizerConfig())
        topology |= {"step_loop": "auto", **topology}
    for path, value in moved.items():
        section = topology if path.startswith("topology.") else agent["optimizer"]
        section[path.rpartition(".")[2]] = value
    return new


def new_name(key: str, agent: Any) -> str | None:
    """Returns today's name of an earlier key; None if there was no such key, or not of the agent of this name."""
    return None if key in _AGENTS and agent not in _WITH_EARLIER_NAMES else RENAMED.get(key)


def new_setting(key: str, text: str, *, is_free: bool = False) -> tuple[str, str]:
    """Returns a key and its value, as text, by today's name and meaning.

    Args:
        key: Dotted.
        text: The value as it was typed.
        is_free: Whether the config has `determinism='free'`, where the lag is only bounded.

    Raises:
        ValueError: If the text is no value that the earlier key took.
    """
    if key != _SYNCHRONOUS:
        return RENAMED.get(key, key), text
    synchronous = bool(read(text, bool))
    return (_MAX_LAG, "0") if is_free and synchronous else (_LAG, str(_lag_of(synchronous)))


def earlier_settings(key: str, text: str, *, is_free: bool = False) -> list[tuple[str, str]]:
    """Returns the settings, as they may have been typed, that mean one of today's: those of an earlier podrl, and it.

    Args:
        key: Dotted, by today's name.
        text: The value as it was typed.
        is_free: See `new_setting`.
    """
    words = {"0": ("True", "true"), "1": ("False", "false")}.get(text, ())
    earlier = [(_SYNCHRONOUS, word) for word in words if new_setting(_SYNCHRONOUS, word, is_free=is_free)[0] == key]
    return [*earlier, *((old, text) for old, new in _AGENTS.items() if new == key), (key, text)]


def _rename_lag(values: dict[str, Any]) -> None:
    """Replaces `actors.synchronous` in a config: an exact lag of 0 or 1, or with `determinism='free'` a bound of 0."""
    actors = values.get("actors")
    if not isinstance(actors, dict) or "synchronous" not in actors:
        return
    synchronous = bool(actors.pop("synchronous"))
    if values.get("determinism") != "free":
        actors["lag"] = _lag_of(synchronous)
    elif synchronous:
        actors["max_lag"] = 0


def _lag_of(synchronous: bool) -> int:
    return 0 if synchronous else 1
