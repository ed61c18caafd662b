"""Where the seeds of a run resume: all from the checkpoints of one update."""

from collections.abc import Callable, Sequence
import dataclasses

import jax

from podrl.config.config import check
from podrl.config.paths import is_there
from podrl.learning.learner import Learner
from podrl.loops.interface import Assembly
from podrl.loops.opening import Place
from podrl.runs.checkpoint import Checkpointer
from podrl.runs.checkpoint_errors import CheckpointError
from podrl.runs.checkpoint_restore import Share
from podrl.runs.resume import find_start, restore_start, settle_starts
from podrl.runs.run_files import CHECKPOINTED, START_ANEW
from podrl.types import PyTree, Snapshot


def find_starts(
    assembly: Assembly, places: Sequence[Place], checkpointers: Sequence[Checkpointer], share: Share
) -> list[Snapshot | None]:
    """Restores where each seed resumes; None where it begins.

    Of several seeds that is the newest update of which every seed has a checkpoint.

    Args:
        assembly: The run's parts.
        places: The folders of its seeds.
        checkpointers: Their checkpoints.
        share: Exchanges a text between the processes, see `find_start`.

    Raises:
        ConfigError: If a checkpoint is of another network or algorithm, or some seeds are new and others are not.
        CheckpointError: If checkpoints are damaged or missing.
    """
    parts = assembly.of_each_seed()

    seeds = list(zip(parts, places, checkpointers, strict=True))
    if len(places) > 1 and any(checkpointer.steps() for checkpointer in checkpointers):
        if _common(checkpointers):
            return _find_together(seeds, share)
        _clear_first(places, checkpointers)
    return [
        find_start(part.config, place.folder, checkpointer, part.state_shape, share) if place.resumes else None
        for part, place, checkpointer in seeds
    ]


def with_replay(assembly: Assembly, start: Snapshot | None) -> Snapshot | None:
    """The snapshot that a run resumes from, with an empty replay if its checkpoint had none."""
    learner = assembly.learner if isinstance(assembly.learner, Learner) else assembly.learner.learner
    is_missing = start is not None and not jax.tree.leaves(start.state.replay)
    if start is None or not is_missing or not jax.tree.leaves(learner.state_sharding.replay):
        return start
    make: Callable[..., PyTree] = jax.jit(
        lambda key: learner.make_state(key).replay, out_shardings=learner.state_sharding.replay
    )
    return dataclasses.replace(start, state=dataclasses.replace(start.state, replay=make(start.state.key)))


def _find_together(seeds: Sequence[tuple[Assembly, Place, Checkpointer]], share: Share) -> list[Snapshot | None]:
    """Restores all seeds at one update, and only then deletes checkpoints after it."""
    checkpointers = [checkpointer for _, _, checkpointer in seeds]
    starts: list[Snapshot | None] = []
    while len(starts) < len(seeds):
        part, place, checkpointer = seeds[len(starts)]
        among = _common(checkpointers)
        start = restore_start(part.config, place.folder, checkpointer, part.state_shape, share, among)
        is_other = bool(starts) and (start.counters if start else None) != (starts[0].counters if starts[0] else None)
        starts.append(start)
        if is_other:  # A damaged one was put aside, and so the other seeds resume from an earlier one, too.
            if _common(checkpointers) == among:
                raise CheckpointError(
                    f"{place.folder.name} is not at the same env steps as the other seeds. Put good copies of its "
                    f"checkpoints there and repeat the command, choose another --workdir, or add {START_ANEW}."
                )
            del start
            starts.clear()  # The devices need not hold them twice.
    found = [start for start in starts if start is not None]
    if found:
        settle_starts([part.config for part, _, _ in seeds], checkpointers, seeds[0][0].state_shape, found, share)
    return starts


def _common(checkpointers: Sequence[Checkpointer]) -> list[int]:
    """The updates of which every seed has a checkpoint."""
    return sorted(set.intersection(*(set(checkpointer.steps()) for checkpointer in checkpointers)))


def _clear_first(places: Sequence[Place], checkpointers: Sequence[Checkpointer]) -> None:
    """Deletes first checkpoints that not all seeds have completed: the run begins at update 0 again.

    Raises:
        ConfigError: If seeds have been added to a run.
        CheckpointError: If the checkpoints are not first ones.
    """
    saved = [place.folder.name for place, each in zip(places, checkpointers, strict=True) if each.steps()]
    new = [place.folder.name for place in places if not place.resumes]
    check(
        not new,
        f"{', '.join(new)} cannot begin where {', '.join(saved)} resume: the seeds of a run are at the same update. "
        "Take the seeds that the run has had, or choose another --workdir.",
    )
    unsaved = [
        place
        for place, each in zip(places, checkpointers, strict=True)
        if not each.steps() and not is_there(place.folder / CHECKPOINTED)
    ]
    if not unsaved or any(len(each.steps()) > 1 for each in checkpointers):
        raise CheckpointError(
            f"No update has a checkpoint of every seed of this run. Put good copies there and repeat the command, "
            f"choose another --workdir, or add {START_ANEW}."
        )
    for place in places:  # First: a run without checkpoints that has this does not begin.
        (place.folder / CHECKPOINTED).unlink(missing_ok=True)
    for each in checkpointers:
        each.forget_after(0)
