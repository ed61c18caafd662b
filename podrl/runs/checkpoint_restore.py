"""Chooses the checkpoint that a run resumes from: the first that is not damaged, the same on all processes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import itertools
import json
from typing import NamedTuple

from absl import logging
from etils import epath
import numpy as np

from podrl.config.paths import is_there
from podrl.runs.checkpoint_arrays import check_hashes, read_state
from podrl.runs.checkpoint_errors import CheckpointError, DamagedError, UnreadableError
from podrl.runs.checkpoint_facts import Facts, checkpoint_folder
from podrl.runs.checkpoint_replay import check_replay, delete_replay, is_in_order, read_replay
from podrl.runs.replay_pieces import ring_order
from podrl.runs.state_arrays import from_arrays, to_array_shapes
from podrl.types import LearnerState, PyTree, Snapshot

Share = Callable[[str], Sequence[str]]  # Exchanges one text of each process between all of them.


def restore(workdir: epath.PathLike, shape: LearnerState, step: int, env_index: np.ndarray | None = None) -> Snapshot:
    """Restores a state onto the devices that `shape` names, and checks that it is what was saved.

    Args:
        workdir: the run's folder.
        shape: `jax.ShapeDtypeStruct`s with shardings.
        step: the checkpoint's step.
        env_index: [B] uint32; the order of the environments in the replay; None if it is that of their numbers. If the
            checkpoint has no replay, the state has none.

    Raises:
        ConfigError: if it is of another network or algorithm; the message names the first leaf that differs.
        DamagedError: if it is damaged.
        UnreadableError: if the system does not let it be read.
    """
    return _checked(workdir, shape, step, _read(workdir, shape, step, env_index))


def restore_first(
    workdir: epath.PathLike,
    shape: LearnerState,
    steps: Iterable[int],
    share: Share,
    env_index: np.ndarray | None = None,
) -> tuple[Snapshot | None, dict[int, str]]:
    """Restores the first of these checkpoints that is not damaged. Changes nothing in the folder.

    Args:
        workdir: the run's folder.
        shape: shape of the state, as for `restore`.
        steps: steps of the checkpoints to try, the same on all processes.
        share: exchange between the processes, see `Share`.
        env_index: [B] uint32; order of the environments in the replay, see `restore`.

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
            return _restore_together(workdir, shape, step, share, env_index), damaged
        except DamagedError as error:
            damaged[step] = str(error)
    if damaged:
        raise DamagedError(" ".join(damaged.values()))
    return None, damaged


def put_aside(workdir: epath.PathLike, damaged: Mapping[int, str]) -> None:
    """Renames damaged checkpoints to `damaged-<step>`, or `damaged-<step>-2` and so on, and warns of each.

    They lose their replays: no run would read them, and each may be as large as all else that the run has on disk.
    """
    folder = checkpoint_folder(workdir)
    for step, reason in damaged.items():
        names = itertools.chain([f"damaged-{step}"], (f"damaged-{step}-{number}" for number in itertools.count(2)))
        aside = next(path for path in (folder / name for name in names) if not is_there(path))
        (folder / str(step)).rename(aside)
        kept = _drop_replay(aside / "replay")
        logging.warning("Checkpoint %d is damaged and was put aside as %s%s: %s", step, aside.name, kept, reason)


def _drop_replay(folder: epath.Path) -> str:
    """Deletes the replay of a checkpoint that was put aside; returns what to say of it."""
    try:
        return ", without its replay" if delete_replay(folder) else ""
    except OSError as error:
        return f", with its replay, which could not be deleted ({error.strerror or error})"


class _Read(NamedTuple):
    """What was read of a checkpoint: its arrays, those of its replay (None without) and their order."""

    facts: Facts
    arrays: dict[str, PyTree]
    replay: PyTree | None
    env_index: np.ndarray


def _read(workdir: epath.PathLike, shape: LearnerState, step: int, env_index: np.ndarray | None) -> _Read:
    """Reads a checkpoint without waiting for other processes."""
    expected = to_array_shapes(shape)
    facts, arrays = read_state(workdir, step, expected)
    if "replay" not in expected:
        return _Read(facts, arrays, None, np.zeros(0, np.uint32))
    order = ring_order(expected["replay"]) if env_index is None else env_index
    replay = None if "replay" in arrays else read_replay(workdir, step, facts, expected["replay"], order)
    return _Read(facts, arrays, replay, order)


def _restore_together(
    workdir: epath.PathLike, shape: LearnerState, step: int, share: Share, env_index: np.ndarray | None
) -> Snapshot:
    """Restores as `restore` does, with the same outcome on all processes.

    No process waits for others while it reads: the damage may be in a part that only one of them has to read. All
    compare the hashes together, once all have read. A replay that not all of them have found is left out.
    """
    read: _Read | None = None
    failure: CheckpointError | None = None
    try:
        read = _read(workdir, shape, step, env_index)
    except (DamagedError, UnreadableError) as error:
        failure = error
    reason = [] if failure is None else [isinstance(failure, UnreadableError), str(failure)]
    mine = {"reason": reason, "replay": read is not None and read.replay is not None}
    told = [json.loads(text) for text in share(json.dumps(mine))]
    failures = sorted((each["reason"] for each in told if each["reason"]), reverse=True)  # Unreadable ones first.
    if failures or read is None:
        unreadable, said = failures[0]
        raise (UnreadableError if unreadable else DamagedError)(said) from failure
    found_by_all = all(each["replay"] for each in told)
    return _checked(workdir, shape, step, read if found_by_all else read._replace(replay=None))


def _checked(workdir: epath.PathLike, shape: LearnerState, step: int, read: _Read) -> Snapshot:
    """Returns the snapshot that was read, after a check of its hashes."""
    facts, arrays = read.facts, read.arrays
    check_hashes(workdir, step, facts, arrays)
    if read.replay is not None:
        check_replay(workdir, step, facts, read.replay, read.env_index)
        arrays = arrays | {"replay": read.replay}
    elif "replay" in arrays and not is_in_order(arrays["replay"], read.env_index):
        arrays = {name: part for name, part in arrays.items() if name != "replay"}
    return Snapshot(
        state=from_arrays(arrays, shape),
        counters=facts.counters,
        episodes=facts.episodes,
        chain=facts.chain,
        wall_s=facts.wall_s,
    )
