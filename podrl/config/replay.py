"""The config section `replay`: what an update keeps of earlier experience, and how often it learns from it."""

import dataclasses
import math
from typing import Any

from podrl.config.ranges import check_values, number
from podrl.mistakes import check, shown

_OF_BATCHES = ("batches", "uses")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """Replay of earlier experience, in a ring that is a part of the learner's state and lies on its devices.

    `batches` and `uses` are for agents that learn from whole batches again, such as `impact`. All other keys are for
    agents that learn from sequences of the newest steps, such as `r2d2`, and from those alone. Other agents refuse the
    section. The ring's size is said before a run starts.

    Attributes:
        batches: newest batches in the ring, each with the whole rollouts of one update; 1 keeps the fresh batch alone.
        uses: calls of `learn` on each batch before it leaves the ring, which are also the calls in an update once the
            ring is full. With `replay.batches` above 1 at least 2: a batch that is used once is used while it is fresh.
        capacity: newest env steps of the whole job in the ring, rounded up to whole unrolls of every environment.
        batch: sequences in the batch of one learner step.
        ratio: transitions learned from per transition inserted, burn-in not counted. It must give a whole number of
            learner steps in an update.
        min_steps: env steps in the ring before the first learner step, at most `capacity`; until then updates only
            insert.
        groups: groups of environments that give equal shares of a batch, each drawn from by itself; 0 is the largest of
            16, 8, 4, 2 and 1 that divides `actors.num_envs` and `replay.batch`. With `r2d2`, where each environment has
            an epsilon of its own, it also leaves every group at least four environments. The number decides what is
            drawn, whatever the devices, and must be a multiple of pools times learner devices.
        priority_exponent: power of a sequence's priority that it is drawn in proportion to; 0 draws all alike.
        importance_exponent: how much weights in the loss correct for that, from 0 to 1.
    """

    batches: int = number(1, 1024, 1)
    uses: int = number(1, 1000, 1)
    capacity: int = number(1, 1e12, 100_000)
    batch: int = number(1, 2**31, 64)
    ratio: float = number(1e-6, 1e6, 1.0)
    min_steps: int = number(0, 1e12, 0)
    groups: int = number(0, 2**31, 0)
    priority_exponent: float = number(0, 10, 0.9)
    importance_exponent: float = number(0, 1, 0.6)

    def __post_init__(self) -> None:
        """Checks the values, that batches beyond the fresh one have uses, and that learning can begin."""
        check_values(self, "replay.")
        check(
            self.batches == 1 or self.uses > 1,
            f"replay.batches={self.batches} keeps batches that replay.uses={self.uses} never learns from again. Use "
            "replay.uses=2 or more, or replay.batches=1.",
        )
        check(
            self.min_steps <= self.capacity,
            f"replay.min_steps={self.min_steps} is never reached by a ring of replay.capacity={self.capacity} env "
            f"steps. Use at most {self.capacity}, or a larger replay.capacity.",
        )

    @property
    def learns_again(self) -> bool:
        """Whether an update learns from anything but its fresh batch, once; of agents that learn from whole batches."""
        return self.uses > 1

    def check_agent(self, name: str, shape: Any) -> None:
        """Checks that only keys are set that the agent has a use for.

        Args:
            name: The agent's name.
            shape: Its `podrl.agents.parts.interface.UpdateShape`.

        Raises:
            ConfigError: If not. The message names the keys.
        """
        check(
            shape.replays or not self._differing(*_OF_BATCHES),
            f"replay.batches={self.batches} and replay.uses={self.uses} are for agents that learn from earlier "
            f"batches, such as impact; agent.name={shown(name)} learns from "
            f"{'sequences' if shape.sequences else 'fresh ones only'}. Leave them out.",
        )
        others = (field.name for field in dataclasses.fields(self) if field.name not in _OF_BATCHES)
        found = self._differing(*others)
        check(
            shape.sequences is not None or not found,
            f"{' and '.join(found)} {'is' if len(found) == 1 else 'are'} for agents that learn from sequences, such as "
            f"r2d2; agent.name={shown(name)} learns from "
            f"{'whole batches (replay.batches and replay.uses)' if shape.replays else 'fresh batches only'}. Leave "
            f"{'it' if len(found) == 1 else 'them'} out.",
        )

    def learner_steps(self, inserted: int, length: int) -> int:
        """Returns the learner steps of an update that inserts `inserted` transitions.

        Args:
            inserted: Env steps of the whole job in an update.
            length: Transitions that are learned from, of each sequence.

        Raises:
            ConfigError: If `ratio` gives no whole number of them. The message names ratios that do.
        """
        each = self.batch * length
        found = self.ratio * inserted / each
        fitting = sorted({max(1, math.floor(found)), math.ceil(found)})
        check(
            found > 0.5 and abs(found - round(found)) <= 1e-5 * found,
            f"replay.ratio={self.ratio:g} gives {found:.6g} learner steps in an update; expected a whole number. An "
            f"update inserts {inserted} transitions (actors.num_envs times actors.unroll_length), and a learner step "
            f"learns from {each} (replay.batch={self.batch} sequences of {length}). Use replay.ratio="
            f"{' or '.join(f'{steps * each / inserted:.6g}' for steps in fitting)}.",
        )
        return round(found)

    def _differing(self, *names: str) -> list[str]:
        """Returns the keys of these that are not at their defaults, with their values."""
        default = {field.name: field.default for field in dataclasses.fields(self)}
        values = {name: getattr(self, name) for name in names}
        return [f"replay.{name}={shown(value)}" for name, value in values.items() if value != default[name]]
