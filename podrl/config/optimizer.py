"""The section of an agent's config that describes an optimizer."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from podrl.config.ranges import choice, number


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """One optimizer; an agent with several has several sections of this kind.

    The agent's config checks the values, as it knows the section's name.

    Attributes:
        name: `adam`, `radam` (rectified Adam) or `rmsprop`.
        learning_rate: The learning rate at the start of the run.
        learning_rate_decay: Whether it falls linearly to zero at the end of the run; if false it stays.
        rmsprop_decay: Decay of `rmsprop`'s mean square.
        epsilon: Added to the root mean square (or to the mean square, see next).
        epsilon_inside_root: For `rmsprop`: false is PyTorch's form and Atari's default, true TensorFlow's.
        max_grad_norm: The whole gradient is scaled down to this global norm.
    """

    name: str = choice(("adam", "radam", "rmsprop"), "adam")
    learning_rate: float = number(1e-12, 10, 3e-4)
    learning_rate_decay: bool = True
    rmsprop_decay: float = number(0, 1, 0.99, open=True)
    epsilon: float = number(1e-15, 1e3, 1e-5)
    epsilon_inside_root: bool = False
    max_grad_norm: float = number(1e-9, 1e9, 1.0)


_WITH_EARLIER_NAMES = ("impala", "ppo")
# Keys by their earlier names, of the agents that were there then.
RENAMED = {
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


def with_new_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config that an earlier podrl wrote, as nested plain values, with today's names of its keys.

    Keys that an agent did not have then get today's defaults, which mean the same.
    """
    new: dict[str, Any] = {name: dict(part) if isinstance(part, Mapping) else part for name, part in values.items()}
    agent, topology = new.get("agent"), new.setdefault("topology", {})
    if not isinstance(agent, dict) or not isinstance(topology, dict) or agent.get("name") not in _WITH_EARLIER_NAMES:
        return new
    earlier = [old for old in RENAMED if old.removeprefix("agent.") in agent]
    if isinstance(agent.get("optimizer"), Mapping):  # It is a section today.
        earlier.remove("agent.optimizer")
    moved = {RENAMED[old]: agent.pop(old.removeprefix("agent.")) for old in earlier}
    if any(path.startswith("agent.optimizer.") for path in moved):
        agent["optimizer"] = dataclasses.asdict(OptimizerConfig())
        topology |= {"step_loop": "auto", **topology}
    for path, value in moved.items():
        section = topology if path.startswith("topology.") else agent["optimizer"]
        section[path.rpartition(".")[2]] = value
    return new
