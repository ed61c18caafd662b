"""Which checkpoints stay on disk, and why: pure functions, and Orbax's interface to them."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
from typing import Any

from absl import logging
from etils import epath

from podrl.config.config import CheckpointConfig


def reasons_to_keep(
    config: CheckpointConfig, returns: Mapping[int, float | None], *, keeps_previous: bool = False
) -> dict[int, list[str]]:
    """Returns the reasons to keep each checkpoint; one without a reason is deleted.

    Args:
        config: how many checkpoints of which kind to keep.
        returns: the mean episode return of every existing checkpoint, by its update; None if no episode had ended.
        keeps_previous: whether the checkpoint before the last one stays, whatever it is.

    Returns:
        By update, oldest first, any of `newest` (of the last `keep` boundaries), `latest` (newer than all boundaries:
        of a run that was stopped in between, or ended there), `permanent`, `best` and `previous`.
    """
    every = config.every_updates
    boundaries = [step for step in sorted(returns) if not every or step % every == 0]
    newest = (boundaries or sorted(returns))[-config.keep :]
    kept = {
        "newest": newest,
        "latest": [step for step in returns if step > max(newest)],
        "permanent": [step for step in boundaries if config.keep_every and step % config.keep_every == 0],
        "best": best_steps({step: returns[step] for step in boundaries}, config.keep_best),
        "previous": sorted(returns)[-2:-1] if keeps_previous else [],
    }
    return {step: [reason for reason, steps in kept.items() if step in steps] for step in sorted(returns)}


def best_steps(returns: Mapping[int, float | None], count: int) -> list[int]:
    """Returns the steps with the highest returns, best first, the newer first of equal ones; others are left out."""
    ranked = [(total, step) for step, total in returns.items() if total is not None and not math.isnan(total)]
    return [step for _, step in sorted(ranked, reverse=True)[:count]]


@dataclasses.dataclass
class Preservation:
    """Tells Orbax which checkpoints to keep: a preservation policy, in its terms.

    Attributes:
        config: how many checkpoints of which kind to keep.
        return_of: returns the mean episode return at a checkpoint; None if no episode had ended.
        dropped: steps that the newest decision dropped, oldest first.
        undeletable: steps whose deletion is not tried again.
        keeps_previous: whether the checkpoint before the last one stays, and its replay: that of several runs which
            resume together, until all of them have completed the last one.
    """

    config: CheckpointConfig
    return_of: Callable[[int], float | None]
    dropped: list[int] = dataclasses.field(default_factory=list)
    undeletable: set[int] = dataclasses.field(default_factory=set)
    keeps_previous: bool = False

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Returns for each checkpoint whether to keep it."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        returns = {step: self.return_of(step) if self.config.keep_best else None for step in steps}
        reasons = reasons_to_keep(self.config, returns, keeps_previous=self.keeps_previous)
        keep = [bool(reasons[step]) or step in self.undeletable for step in steps]
        self.dropped[:] = [step for step, stays in zip(steps, keep, strict=True) if not stays]
        return keep

    def outdated(self, whole: Sequence[int]) -> list[int]:
        """Returns which of the existing checkpoints need no replay once the newest of them has one."""
        return sorted(whole)[: -2 if self.keeps_previous else -1]

    def leave_undeleted(self, whole: Sequence[int], folder: epath.Path, reason: str) -> None:
        """Warns of the checkpoint at whose deletion Orbax stopped; the next save deletes the remaining ones.

        Args:
            whole: steps of the existing checkpoints.
            folder: where they lie.
            reason: why it could not be deleted.
        """
        for step in [step for step in self.dropped if step in whole][:1]:
            self.undeletable.add(step)
            logging.warning(
                "Checkpoint %d, which is no longer needed, could not be deleted (%s). Delete %s by hand.",
                step,
                reason,
                folder / str(step),
            )
