"""The arrays of a checkpoint, read through Orbax and checked against the hashes that were saved with them.

Code that reads arrays first reads the facts beside them (`podrl.runs.checkpoint_facts`), which say which arrays must
exist. So a change on a disk is told apart from a checkpoint of another network.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import re
from typing import Any

from absl import logging
from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp

from podrl.config.paths import is_there
from podrl.ops.fingerprint import hash_arrays, hash_on_host
from podrl.runs.checkpoint_errors import DamagedError, reading
from podrl.runs.checkpoint_facts import ArrayRecord, Facts, checkpoint_folder, name_of, read_facts
from podrl.runs.state_arrays import by_path, check_leaves, leaf_shapes, with_remainders, without_absent
from podrl.types import Counters, LearnerState, PyTree

_RECORD = "_METADATA"  # Orbax's record of the arrays.


def whole_steps(workdir: epath.PathLike) -> list[int]:
    """Returns the learner steps of the complete checkpoints in a run's folder, oldest first."""
    folder = checkpoint_folder(workdir)
    return sorted(ocp.utils.checkpoint_steps(folder)) if is_there(folder) else []


def has_whole_step(workdir: epath.PathLike, step: int | None = None) -> bool:
    """Returns whether there is a complete checkpoint of this update, or of any, without listing all of them."""
    folder = checkpoint_folder(workdir)
    if not is_there(folder):
        return False
    if step is None:
        return ocp.utils.any_checkpoint_step(folder) is not None
    path = folder / str(step)
    return is_there(path) and ocp.utils.is_checkpoint_finalized(path)


def make_records(arrays: PyTree) -> dict[str, ArrayRecord]:
    """Returns the records to save beside arrays; called by all processes that hold a part of them."""
    hashes, shapes = hash_arrays(by_path(arrays)), leaf_shapes(arrays)
    return {path: ArrayRecord(shapes[path], hashes[path]) for path in hashes}


def read_state(workdir: epath.PathLike, step: int, expected: PyTree) -> tuple[Facts, PyTree]:
    """Reads the facts, and the arrays onto the devices that `expected` names; `check_hashes` checks them afterwards.

    It does not wait for other processes: the damage may be in a part that only one of them has to read.

    Args:
        workdir: the run's folder.
        step: the checkpoint's step.
        expected: `jax.ShapeDtypeStruct`s with shardings, as `podrl.runs.state_arrays` names them.

    Raises:
        ConfigError: if the checkpoint is of another network or algorithm; the message names the first leaf that
            differs.
        DamagedError: if it is damaged.
        UnreadableError: if the system does not let it be read.
    """
    facts = read_facts(workdir, step)
    saved = read_index(workdir, step, facts)
    path = _state_folder(workdir, step)
    expected = without_absent(expected, saved)
    check_leaves(path.parent, saved, expected)
    with reading(name_of(workdir, step)):
        return facts, ocp.StandardCheckpointHandler().restore(path, args=ocp.args.StandardRestore(expected))


def check_hashes(workdir: epath.PathLike, step: int, facts: Facts, arrays: Mapping[str, Any]) -> None:
    """Checks what `read_state` read; all processes call it together and get the same result.

    Raises:
        DamagedError: if an array differs from what was saved, or the state is of another update than its checkpoint.
    """
    if facts.arrays is not None:
        _compare(workdir, step, hash_arrays(by_path(arrays)), facts.arrays)
    else:
        _tell_of_no_hashes(step)
    found = int(np.asarray(arrays["step"]))
    if found != step:
        raise DamagedError(f"{name_of(workdir, step)} is damaged: its state is of update {found}.")


def read_shapes(workdir: epath.PathLike, step: int, facts: Facts) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shape and dtype of every array of a checkpoint by its path, such as `params/encoder/Dense_0/kernel`.

    Raises:
        CheckpointError: if it is damaged, or cannot be read.
    """
    saved = by_path(read_index(workdir, step, facts))
    return {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in saved.items()}


def check_all(workdir: epath.PathLike, step: int, facts: Facts) -> int | None:
    """Reads every array into host memory, the whole checkpoint at once, and compares it with its hash.

    Returns:
        The number of arrays; None if the checkpoint was made before podrl saved hashes.

    Raises:
        CheckpointError: if it is damaged, or cannot be read.
    """
    arrays = _read_on_host(workdir, step, facts, dict(read_index(workdir, step, facts)))
    found = int(arrays["step"])
    if found != step:
        raise DamagedError(f"{name_of(workdir, step)} is damaged: its state is of update {found}.")
    return None if facts.arrays is None else len(arrays)


def read_params(workdir: epath.PathLike, step: int) -> dict[str, np.ndarray]:
    """Returns the parameters of a checkpoint in host memory by their path, such as `encoder/Dense_0/kernel`.

    If observations were normalised (`podrl.agents.parts.normalization`), their statistics are included, as
    `observations/mean`. The number of devices may differ from that of the checkpoint.

    Raises:
        CheckpointError: if it is damaged, or cannot be read.
    """
    facts = read_facts(workdir, step)
    saved = read_index(workdir, step, facts)
    statistics = _observations_in(saved.get("extra"))
    item = {"params": saved["params"], **({"extra": statistics} if statistics else {})}
    arrays = _read_on_host(workdir, step, facts, item)
    return {re.sub("^(params|extra/(agent/)*)/?", "", path): array for path, array in arrays.items()}


def _observations_in(extra: PyTree) -> dict[str, Any]:
    """Returns the part of a state's `extra` with the statistics of observations, in wrappers' own; empty if none."""
    if not isinstance(extra, Mapping):
        return {}
    if "observations" in extra:
        return {"observations": {name: extra["observations"][name] for name in ("count", "mean", "variance")}}
    inner = _observations_in(extra.get("agent"))
    return {"agent": inner} if inner else {}


def read_arrays(workdir: epath.PathLike, step: int, parts: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns the arrays of some parts of a checkpoint, such as `params`, in host memory by their whole path.

    Raises:
        CheckpointError: if it is damaged, or cannot be read.
    """
    facts = read_facts(workdir, step)
    saved = read_index(workdir, step, facts)
    return _read_on_host(workdir, step, facts, {name: saved[name] for name in parts if name in saved})


def restore_actor(workdir: epath.PathLike, shape: LearnerState, step: int) -> tuple[LearnerState, Counters]:
    """Restores what `Agent.actor_params` reads: `step`, `params` and `extra`; the rest is left as in `shape`.

    Args:
        workdir: the run's folder.
        shape: `jax.ShapeDtypeStruct`s with shardings, of any topology.
        step: the checkpoint's step.

    Raises:
        ConfigError: if the checkpoint is of another network or algorithm.
        CheckpointError: if it is damaged, or cannot be read.
    """
    facts = read_facts(workdir, step)
    saved, path = read_index(workdir, step, facts), _state_folder(workdir, step)
    parts = without_absent({"step": shape.step, "params": shape.params, "extra": shape.extra}, saved)
    check_leaves(path.parent, saved, parts, partly=True)
    with reading(name_of(workdir, step)):
        arguments = ocp.args.PyTreeRestore(
            item=parts, restore_args=ocp.checkpoint_utils.construct_restore_args(parts), partial_restore=True
        )
        restored = ocp.PyTreeCheckpointHandler().restore(path, args=arguments)
    _check_on_host(workdir, step, facts, jax.device_get(by_path(restored)))
    extra = with_remainders(restored["extra"], shape.extra)
    return dataclasses.replace(shape, step=restored["step"], params=restored["params"], extra=extra), facts.counters


def read_index(workdir: epath.PathLike, step: int, facts: Facts) -> dict[str, PyTree]:
    """Returns Orbax's record of each array in the state.

    Raises:
        CheckpointError: if it cannot be read, or does not match the arrays that were saved.
    """
    path, name = _state_folder(workdir, step), name_of(workdir, step)
    with reading(name):
        if not is_there(path / _RECORD):
            raise DamagedError(f"{name} is damaged: state/{_RECORD} is not there.")
        index = ocp.PyTreeCheckpointHandler().metadata(path).tree
        found = leaf_shapes(index)
    if facts.arrays is not None:
        check_index(name, found, facts.arrays)
    return index


def check_index(name: str, found: Mapping[str, str], records: Mapping[str, ArrayRecord]) -> None:
    """Checks that Orbax's index has the arrays that were to be saved.

    Args:
        name: the checkpoint's name.
        found: dtype and shape by path, see `podrl.runs.state_arrays.leaf_shapes`.
        records: the arrays that must be there.

    Raises:
        DamagedError: if they differ; the message names the first array that does.
    """
    for path in sorted({**found, **records}):
        there, wanted = found.get(path, "not there"), records[path].shape if path in records else "none"
        if there != wanted:
            raise DamagedError(f"{name} is damaged: {path} is {there} in the index of its arrays, expected {wanted}.")


def _read_on_host(workdir: epath.PathLike, step: int, facts: Facts, item: dict[str, Any]) -> dict[str, np.ndarray]:
    """Reads and checks the arrays in `item`, a part of the state's index, and returns them by their path."""
    on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
    arguments = ocp.args.PyTreeRestore(item=item, restore_args=on_host, partial_restore=True)
    with reading(name_of(workdir, step)):
        arrays = by_path(ocp.PyTreeCheckpointHandler().restore(_state_folder(workdir, step), args=arguments))
    _check_on_host(workdir, step, facts, arrays)
    return arrays


def _check_on_host(workdir: epath.PathLike, step: int, facts: Facts, arrays: Mapping[str, np.ndarray]) -> None:
    if facts.arrays is None:
        _tell_of_no_hashes(step)
        return
    hashes = {path: hash_on_host(array) for path, array in arrays.items()}
    _compare(workdir, step, hashes, {path: facts.arrays[path] for path in hashes})


def _compare(workdir: epath.PathLike, step: int, hashes: Mapping[str, str], records: Mapping[str, ArrayRecord]) -> None:
    differing = [path for path, record in records.items() if hashes.get(path) != record.hash]
    if differing:
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise DamagedError(
            f"{name_of(workdir, step)} is damaged: {differing[0]}{more} of {len(records)} arrays: the hash is not that "
            "of what was saved."
        )


def _tell_of_no_hashes(step: int) -> None:
    logging.info("Checkpoint %d was made before podrl saved hashes with the arrays: they are taken as they are.", step)


def _state_folder(workdir: epath.PathLike, step: int) -> epath.Path:
    return checkpoint_folder(workdir) / str(step) / "state"
