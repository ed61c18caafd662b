"""Which checkpoints stay on disk, and why: pure functions from what there is, and Orbax's interface to them."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
from typing import Any

from podrl.config.config import CheckpointConfig


def reasons_to_keep(config: CheckpointConfig, returns: Mapping[int, float | None]) -> dict[int, list[str]]:
    """Why each checkpoint stays; one without a reason goes.

    Args:
        config: how many of which kind stay.
        returns: of every checkpoint there is, by its update, the mean episode return; None if no episode had ended.

    Returns:
        By update, oldest first, any of `newest` (of the last `keep` boundaries), `latest` (newer than all boundaries:
        of a run that was stopped in between, or ended there), `for good` and `best`.
    """
    every = config.every_updates
    boundaries = [step for step in sorted(returns) if not every or step % every == 0]
    newest = (boundaries or sorted(returns))[-config.keep :]
    kept = {
        "newest": newest,
        "latest": [step for step in returns if step > max(newest)],
        "for good": [step for step in boundaries if config.keep_every and step % config.keep_every == 0],
        "best": best_steps({step: returns[step] for step in boundaries}, config.keep_best),
    }
    return {step: [reason for reason, steps in kept.items() if step in steps] for step in sorted(returns)}


def best_steps(returns: Mapping[int, float | None], count: int) -> list[int]:
    """The checkpoints with the highest returns, best first; of equal ones the newer. Those without one never count."""
    ranked = [(total, step) for step, total in returns.items() if total is not None and not math.isnan(total)]
    return [step for _, step in sorted(ranked, reverse=True)[:count]]


@dataclasses.dataclass(frozen=True)
class Preservation:
    """Decides for Orbax, which asks before it deletes: a preservation policy, in its words.

    Attributes:
        config: how many of which kind stay.
        return_of: the mean episode return at a checkpoint; None if no episode had ended.
        dropped: by the newest decision, oldest first.
        undeletable: what nobody tries to delete again.
    """

    config: CheckpointConfig
    return_of: Callable[[int], float | None]
    dropped: list[int] = dataclasses.field(default_factory=list)
    undeletable: set[int] = dataclasses.field(default_factory=set)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """For each checkpoint whether it stays."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        reasons = reasons_to_keep(
            self.config, {step: self.return_of(step) if self.config.keep_best else None for step in steps}
        )
        keep = [bool(reasons[step]) or step in self.undeletable for step in steps]
        self.dropped[:] = [step for step, stays in zip(steps, keep, strict=True) if not stays]
        return keep
