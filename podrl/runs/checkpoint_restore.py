"""Which checkpoint a run goes on from: the first that is not damaged, the same one on all processes."""

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

Share = Callable[[str], Sequence[str]]  # Brings a text of this process to all of them, and theirs here.


def restore(workdir: epath.PathLike, shape: LearnerState, step: int) -> Snapshot:
    """Restores a state onto the devices that `shape` names, and checks that it is what was saved.

    Args:
        workdir: the run's.
        shape: `jax.ShapeDtypeStruct`s with shardings.
        step: which checkpoint.

    Raises:
        ConfigError: if it is of another network or algorithm; names the first leaf that differs.
        DamagedError: if it is damaged.
        UnreadableError: if the system does not let it be read.
    """
    return _checked(workdir, shape, step, *read_state(workdir, step, to_array_shapes(shape)))


def restore_first(
    workdir: epath.PathLike, shape: LearnerState, steps: Iterable[int], share: Share
) -> tuple[Snapshot | None, dict[int, str]]:
    """Restores the first of these checkpoints that is not damaged. Changes nothing in the folder.

    Args:
        workdir: the run's.
        shape: as for `restore`.
        steps: which checkpoints, the same on all processes.
        share: see `Share`.

    Returns:
        What it holds, None if there are no steps; and the damaged ones before it with the reasons.

    Raises:
        ConfigError: as `restore`.
        DamagedError: if all are damaged; says in what.
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
    """As `restore`, with the same outcome on all processes.

    Nobody waits for others while it reads: what is damaged may be what one process alone has to read. Hashes are
    compared by all of them together, once all have read.
    """
    read: tuple[Facts, PyTree] | None = None
    failure: CheckpointError | None = None
    try:
        read = read_state(workdir, step, to_array_shapes(shape))
    except (DamagedError, UnreadableError) as error:
        failure = error
    mine = "" if failure is None else json.dumps([isinstance(failure, UnreadableError), str(failure)])
    failures = sorted((json.loads(text) for text in share(mine) if text), reverse=True)  # The unreadable first.
    if failures or read is None:
        unreadable, reason = failures[0]
        raise (UnreadableError if unreadable else DamagedError)(reason) from failure
    return _checked(workdir, shape, step, *read)


def _checked(workdir: epath.PathLike, shape: LearnerState, step: int, facts: Facts, arrays: PyTree) -> Snapshot:
    """What was read, if it is what was saved."""
    check_hashes(workdir, step, facts, arrays)
    return Snapshot(
        state=from_arrays(arrays, shape),
        counters=facts.counters,
        episodes=facts.episodes,
        chain=facts.chain,
        wall_s=facts.wall_s,
    )
