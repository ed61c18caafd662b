"""A run that begins with the weights of another: which arrays of its newest checkpoint fit, and their place.

Arrays of parameters are taken where path and shape are the same. A target network begins as the network that it is a
copy of, as in any first state. Statistics by which observations, rewards or values are normalised are taken too, since
the weights were learned under them. The optimizer begins anew.
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

from absl import logging
from etils import epath
import jax
import numpy as np

from podrl.config.config import ConfigError, check
from podrl.mistakes import shorten
from podrl.runs.checkpoint_arrays import has_whole_step, read_arrays
from podrl.runs.checkpoint_errors import CheckpointError
from podrl.runs.inspection import choose_step, find_run, read_checkpoint
from podrl.runs.records import read_manifests
from podrl.runs.run_files import holds_run
from podrl.runs.state_arrays import by_path
from podrl.runtime.job.agreement import from_first, together
from podrl.runtime.job.job import Job
from podrl.types import LearnerState

INIT_FROM = "init_from"  # The flag, and the manifest's key.
_STATISTICS = ("observations", "acting", "returns", "popart")  # Parts of `LearnerState.extra`, within wrappers' own.
_READ_S = 3600.0  # How much longer than others a process may read.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """What a run begins with.

    Attributes:
        record: What the run's manifest says of it; empty if the run begins with random weights.
        arrays: Arrays of `LearnerState.params` and `.extra` by path, such as `params/policy/Dense_0/kernel`.
    """

    record: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def put(self, state: LearnerState) -> LearnerState:
        """Returns a first state with these arrays; each stays laid out as it is."""

        def place(path: tuple[Any, ...], old: jax.Array) -> jax.Array:
            new = self.arrays.get(_name(path))
            if new is None:
                return old
            return jax.make_array_from_callback(old.shape, old.sharding, lambda index: new[index])

        if not self.arrays:
            return state
        parts = jax.tree_util.tree_map_with_path(place, _parts(state))
        return dataclasses.replace(state, params=parts["params"], extra=parts["extra"])


def find_weights(
    init_from: str | None, place: str, shape: LearnerState, job: Job, *, num_seeds: int = 1, start_anew: bool = False
) -> Weights:
    """Returns what a run begins with, before it has a folder.

    A run that resumes has its own weights: nothing is read, and the flag must be the one that it began with, or none.

    Args:
        init_from: The folder of the other run; None for random weights.
        place: The run's folder, which may hold the run.
        shape: Shapes of the run's state.
        job: All processes.
        num_seeds: Seeds of the run.
        start_anew: Whether what is in the folder is deleted, or left for another folder.

    Raises:
        ConfigError: On all processes, if there is no such run, nothing of it fits, or the run began otherwise.
    """
    check(
        init_from is None or num_seeds == 1,
        f"--init_from={init_from} with topology.seeds={num_seeds}: only a run of one seed begins with given weights. "
        "Start a run for each seed.",
    )
    choose = functools.partial(_choose, init_from, epath.Path(place), start_anew=start_anew)
    chosen = from_first(job, "weights to begin with", choose, _READ_S)
    if not chosen["reads"]:
        return Weights(record={INIT_FROM: chosen["record"]} if chosen["record"] else {})
    run, update = chosen["record"]["run"], chosen["record"]["update"]
    found, missing = together(job, "weights", lambda: _read(run, update, shape), _READ_S)
    taken, total = (sum(path.startswith("params/") for path in paths) for paths in (found, by_path(_parts(shape))))
    statistics = sorted({_group(path) for path in found if _group(path)})
    if job.process_index == 0:
        logging.info(
            "Begins with the weights of %s, update %d: %s of %d arrays of parameters fit%s%s.",
            *(run, update, "all" if taken == total else taken, total),
            f", with statistics ({', '.join(statistics)})" if statistics else "",
            f"; not taken: {shorten(missing)}" if missing else "",
        )
    return Weights(record={INIT_FROM: {**chosen["record"], "arrays": taken, "of": total}}, arrays=found)


def _choose(init_from: str | None, folder: epath.Path, *, start_anew: bool) -> dict[str, Any]:
    """Returns the run and the update whose weights are taken, and whether they are still to be read."""
    resumes = not start_anew and holds_run(folder)
    record = next(iter(read_manifests(folder)), {}).get(INIT_FROM) if resumes else None
    if resumes:
        began = f"with --init_from={record['run']}" if record else "with random weights"
        check(
            init_from is None or (record is not None and record["run"] == init_from),
            f"--init_from={init_from}: the run in --workdir={folder} began {began}, and resumes from there. Leave the "
            "flag as it was, choose another folder, or add --start_anew.",
        )
        if has_whole_step(folder):
            if init_from is not None:
                logging.info("--init_from=%s has no effect: the run resumes from a checkpoint of its own.", init_from)
            return {"reads": False, "record": record}
        check(
            record is None or init_from is not None,
            f"--workdir={folder} holds a run that began {began} and has no checkpoint yet. Repeat that flag.",
        )
    if init_from is None:
        return {"reads": False, "record": None}
    check(init_from != str(folder), f"--init_from={init_from} is the run's own folder. Name that of another run.")
    try:
        source = find_run(init_from)
        update = choose_step(source, record["update"] if record else None)
    except ConfigError as error:
        raise ConfigError(str(error).replace("--workdir=", "--init_from=").replace("--step=", "Update ")) from None
    return {"reads": True, "record": {"run": init_from, "update": update}}


def _read(run: str, update: int, shape: LearnerState) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the arrays of a checkpoint that fit, and a text for each of ours that has none."""
    folder = epath.Path(run)
    try:
        saved = read_checkpoint(folder, update, lambda step: read_arrays(folder, step, ("params", "extra")))
    except CheckpointError as error:
        raise ConfigError(f"--init_from={run}: {error}") from None
    wanted = by_path(_parts(shape))
    found = {
        path: saved[path] for path, leaf in wanted.items() if path.startswith("params/") and _fits(saved, path, leaf)
    }
    missing = [
        f"{path.removeprefix('params/')} {_describe(leaf)} ({_describe(saved[path]) if path in saved else 'not'} there)"
        for path, leaf in wanted.items()
        if path.startswith("params/") and path not in found
    ]
    check(bool(found), f"--init_from={run}: no array of its parameters fits this run's: {shorten(missing, 3)}.")
    for path, leaf in wanted.items():
        network = f"params/{path.partition('/target/')[2]}"
        if path.startswith("extra/") and network in found and found[network].shape == leaf.shape:
            found[path] = found[network]
    statistics, lacking = _match_statistics(wanted, saved)
    return {**found, **statistics}, missing + lacking


def _match_statistics(wanted: Mapping[str, Any], saved: Mapping[str, np.ndarray]) -> tuple[dict, list[str]]:
    """Returns the statistics that fit, each group as a whole or not at all, and a text for each that does not."""
    ours, theirs = ({path: _bare(path) for path in paths if _group(path)} for paths in (wanted, saved))
    there = {bare: saved[path] for path, bare in theirs.items()}
    found, lacking = {}, []
    for group in sorted({_group(path) for path in (*ours, *theirs)}):
        mine = {path: bare for path, bare in ours.items() if _group(path) == group}
        if mine and all(_fits(there, bare, wanted[path]) for path, bare in mine.items()):
            found.update({path: there[bare] for path, bare in mine.items()})
        else:
            lacks = "of another form" if mine and any(_group(path) == group for path in theirs) else "only"
            whose = "" if lacks != "only" else " here" if mine else " there"
            lacking.append(f"statistics of {group} ({lacks}{whose})")
    return found, lacking


def _parts(state: LearnerState) -> dict[str, Any]:
    return {"params": state.params, "extra": state.extra}


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _bare(path: str) -> str:
    """Returns a path in `extra` without the parts of the wrappers around the agent."""
    path = path.removeprefix("extra/")
    while path.startswith("agent/"):
        path = path.removeprefix("agent/")
    return path


def _group(path: str) -> str:
    """Returns the statistics that a path is of; empty if it is of none."""
    group = _bare(path).partition("/")[0] if path.startswith("extra/") else ""
    return group if group in _STATISTICS else ""


def _fits(saved: Mapping[str, np.ndarray], path: str, leaf: Any) -> bool:
    return path in saved and (saved[path].shape, saved[path].dtype) == (leaf.shape, leaf.dtype)


def _describe(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
