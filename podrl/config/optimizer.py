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
        name: `adam` or `rmsprop`.
        learning_rate: The learning rate at the start of the run.
        learning_rate_decay: Whether it falls linearly to zero at the end of the run; if false it stays.
        rmsprop_decay: Decay of `rmsprop`'s mean square.
        epsilon: Added to the root mean square (or to the mean square, see next).
        epsilon_inside_root: For `rmsprop`: false is PyTorch's form and Atari's default, true TensorFlow's.
        max_grad_norm: The whole gradient is scaled down to this global norm.
    """

    name: str = choice(("adam", "rmsprop"), "adam")
    learning_rate: float = number(1e-12, 10, 3e-4)
    learning_rate_decay: bool = True
    rmsprop_decay: float = number(0, 1, 0.99, open=True)
    epsilon: float = number(1e-15, 1e3, 1e-5)
    epsilon_inside_root: bool = False
    max_grad_norm: float = number(1e-9, 1e9, 1.0)


# Keys by their earlier names.
RENAMED = {
    "agent.optimizer": "agent.optimizer.name",
    "agent.learning_rate": "agent.optimizer.learning_rate",
    "agent.learning_rate_decay": "agent.optimizer.learning_rate_decay",
    "agent.rmsprop_decay": "agent.optimizer.rmsprop_decay",
    "agent.epsilon": "agent.optimizer.epsilon",
    "agent.epsilon_inside_root": "agent.optimizer.epsilon_inside_root",
    "agent.max_grad_norm": "agent.optimizer.max_grad_norm",
}


def with_new_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config that an earlier podrl wrote, as nested plain values, with its agent's keys by today's names.

    Args:
        values: As `config.json` holds them; returned as they are if they have today's names.
    """
    agent = values.get("agent")
    if not isinstance(agent, Mapping) or isinstance(agent.get("optimizer"), Mapping):
        return dict(values)
    moved = {
        new.rpartition(".")[2]: agent[old] for path, new in RENAMED.items() if (old := path[len("agent.") :]) in agent
    }
    if not moved:
        return dict(values)
    kept = {name: value for name, value in agent.items() if f"agent.{name}" not in RENAMED}
    return {**values, "agent": {**kept, "optimizer": moved}}
