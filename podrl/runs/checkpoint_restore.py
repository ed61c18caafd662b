"""Chooses the checkpoint that a run resumes from: the first that is not damaged, the same on all processes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import itertools
import json

from absl import logging
from etils import epath

from podrl.config.paths import is_there
from podrl.runs.checkpoint_arrays import check_hashes, read_state
from podrl.runs.checkpoint_errors import CheckpointError, DamagedError, UnreadableError
from podrl.runs.checkpoint_facts import Facts, checkpoint_folder
from podrl.runs.state_arrays import from_arrays, to_array_shapes
from podrl.types import LearnerState, PyTree, Snapshot

Share = Callable[[str], Sequence[str]]  # Exchanges one text of each process between all of them.


def restore(workdir: epath.PathLike, shape: LearnerState, step: int) -> Snapshot:
    """Restores a state onto the devices that `shape` names, and checks that it is what was saved.

    Args:
        workdir: the run's folder.
        shape: `jax.ShapeDtypeStruct`s with shardings.
        step: the checkpoint's step.

    Raises:
        ConfigError: if it is of another network or algorithm; the message names the first leaf that differs.
        DamagedError: if it is damaged.
        UnreadableError: if the system does not let it be read.
    """
    return _checked(workdir, shape, step, *read_state(workdir, step, to_array_shapes(shape)))


def restore_first(
    workdir: epath.PathLike, shape: LearnerState, steps: Iterable[int], share: Share
) -> tuple[Snapshot | None, dict[int, str]]:
    """Restores the first of these checkpoints that is not damaged. Changes nothing in the folder.

    Args:
        workdir: the run's folder.
        shape: shape of the state, as for `restore`.
        steps: steps of the checkpoints to try, the same on all processes.
        share: exchange between the processes, see `Share`.

    Returns:
        The restored snapshot, None if there are no steps; and the damaged checkpoints before it, with the reasons.

    Raises:
        ConfigError: as in `restore`.
        DamagedError: if all are damaged; the message says how.
        UnreadableError: if one cannot be read.
    """
    damaged: dict[int, str] = {}
    for step in steps:
        try:
            return _restore_together(workdir, shape, step, share), damaged
        except DamagedError as error:
            damaged[step] = str(error)
    if damaged:
        raise DamagedError(" ".join(damaged.values()))
    return None, damaged


def put_aside(workdir: epath.PathLike, damaged: Mapping[int, str]) -> None:
    """Renames damaged checkpoints to `damaged-<step>`, or `damaged-<step>-2` and so on, and warns of each."""
    folder = checkpoint_folder(workdir)
    for step, reason in damaged.items():
        names = itertools.chain([f"damaged-{step}"], (f"damaged-{step}-{number}" for number in itertools.count(2)))
        aside = next(path for path in (folder / name for name in names) if not is_there(path))
        (folder / str(step)).rename(aside)
        logging.warning("Checkpoint %d is damaged and was put aside as %s: %s", step, aside.name, reason)


def _restore_together(workdir: epath.PathLike, shape: LearnerState, step: int, share: Share) -> Snapshot:
    """Restores as `restore` does, with the same outcome on all processes.

    No process waits for others while it reads: the damage may be in a part that only one of them has to read. All
    compare the hashes together, once all have read.
    """
    read: tuple[Facts, PyTree] | None = None
    failure: CheckpointError | None = None
    try:
        read = read_state(workdir, step, to_array_shapes(shape))
    except (DamagedError, UnreadableError) as error:
        failure = error
    mine = "" if failure is None else json.dumps([isinstance(failure, UnreadableError), str(failure)])
    failures = sorted((json.loads(text) for text in share(mine) if text), reverse=True)  # Unreadable ones first.
    if failures or read is None:
        unreadable, reason = failures[0]
        raise (UnreadableError if unreadable else DamagedError)(reason) from failure
    return _checked(workdir, shape, step, *read)


def _checked(workdir: epath.PathLike, shape: LearnerState, step: int, facts: Facts, arrays: PyTree) -> Snapshot:
    """Returns the snapshot that was read, after a check of its hashes."""
    check_hashes(workdir, step, facts, arrays)
    return Snapshot(
        state=from_arrays(arrays, shape),
        counters=facts.counters,
        episodes=facts.episodes,
        chain=facts.chain,
        wall_s=facts.wall_s,
    )
