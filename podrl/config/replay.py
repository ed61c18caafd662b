"""The config section `replay`: what an update keeps of earlier experience, and how often it learns from it."""

import dataclasses

from podrl.config.ranges import check_values, number
from podrl.mistakes import check


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """Replay of whole batches: a ring of the newest ones, each learned from several times.

    Only for agents that learn from batches of earlier updates; others refuse these keys. The ring is a part of the
    learner's state, on its devices and in every checkpoint; its size is said before a run starts.

    Attributes:
        batches: newest batches in the ring, each with the whole rollouts of one update; 1 keeps the fresh batch alone.
        uses: calls of `learn` on each batch before it leaves the ring, which are also the calls in an update once the
            ring is full. With `replay.batches` above 1 at least 2: a batch that is used once is used while it is fresh.
    """

    batches: int = number(1, 1024, 1)
    uses: int = number(1, 1000, 1)

    def __post_init__(self) -> None:
        """Checks the values, and that batches beyond the fresh one have uses."""
        check_values(self, "replay.")
        check(
            self.batches == 1 or self.uses > 1,
            f"replay.batches={self.batches} keeps batches that replay.uses={self.uses} never learns from again. Use "
            "replay.uses=2 or more, or replay.batches=1.",
        )

    @property
    def learns_again(self) -> bool:
        """Whether an update learns from anything but its fresh batch, once."""
        return self.uses > 1
