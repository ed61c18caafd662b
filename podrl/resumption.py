"""Going on with the run that a folder holds: from which checkpoint, and what has changed since it was started last."""

from collections.abc import Callable, Mapping, Sequence
import json
from typing import Any

from absl import logging
from etils import epath
import jax

from podrl.checkpoint import Checkpointer
from podrl.comparison import changes
from podrl.config import Config
from podrl.schedule import is_exact, resumable
from podrl.types import LearnerState, Snapshot
from podrl.workdir import shorten


def make_checkpointer(config: Config, workdir: epath.Path) -> Checkpointer:
    """Opens the checkpoints of a run."""
    checkpoint = config.checkpoint
    return Checkpointer(
        workdir,
        keep=checkpoint.keep,
        every=checkpoint.every_updates,
        keep_every=checkpoint.keep_every,
        keep_best=checkpoint.keep_best,
        save_timeout_s=2 * config.watchdog_s,  # The watchdog ends a run that waits for a save, and says more.
    )


def find_start(
    config: Config,
    checkpointer: Checkpointer,
    shape: LearnerState,
    share: Callable[[str], Sequence[str]] = lambda text: [text],
) -> Snapshot | None:
    """Where the run in a folder goes on; None if it has to begin anew. Later checkpoints are deleted.

    Args:
        config: of the whole run.
        checkpointer: of the folder.
        shape: of the state, with shardings.
        share: brings a text of this process to all of them, and theirs here.

    Raises:
        ConfigError: if a checkpoint is of another network or algorithm.
        RuntimeError: if there are checkpoints, and all are damaged.
    """
    steps = json.loads(share(json.dumps(checkpointer.steps()))[0])
    candidates = resumable(config, steps)
    start = checkpointer.restore_first(shape, candidates, share)
    if start is None:
        if candidates:
            raise RuntimeError("All checkpoints of this run are damaged; remove them to start anew.")
        logging.info("The run in this folder has no checkpoint yet: it starts anew.")
        return None
    done = start.counters.learner_steps
    steps = json.loads(share(json.dumps(checkpointer.steps()))[0])  # Without the damaged.
    repeated = max(steps) - done
    checkpointer.forget_after(done, steps)
    logging.info(
        "Goes on with the run in this folder, after update %d%s.",
        done,
        f"; the {repeated} after it that were done before it was stopped are made again" if repeated else "",
    )
    if config.determinism == "exact" and not is_exact(config, done) and jax.process_index() == 0:
        logging.warning(
            "Update %d is between two boundaries (checkpoint.every_updates=%d): what follows is not bit for bit what "
            "an uninterrupted run would do.",
            done,
            config.checkpoint.every_updates,
        )
    return start


def warn_of_changes(config: Config, before: Sequence[Mapping[str, Any]], now: Mapping[str, Any]) -> None:
    """Says in what a run goes on otherwise than it was started last, if that may change its numbers."""
    if config.determinism == "exact" and before and (found := changes(before[-1], now)):
        logging.warning("What follows may not be bit for bit what it would have been: %s.", shorten(found))
