"""Opens the data set that a run writes while it trains, and says what each update gives it."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import functools
import os
from pathlib import Path
from typing import NamedTuple

from absl import logging
import jax

from podrl.config.config import Config, check
from podrl.config.config_dict import to_plain
from podrl.data.manifest import DATA_MANIFEST, DataSpec, process_folder, read_manifest
from podrl.data.run_recorder import RunRecorder
from podrl.data.writer import DataWriter
from podrl.envs.seeds import env_seed
from podrl.experience.handoff import Rollout
from podrl.experience.programs import make_unroller
from podrl.experience.schedule import is_finished, make_schedule
from podrl.loops.interface import Assembly, Hooks, Services
from podrl.runtime.job.agreement import together
from podrl.runtime.job.job import Job
from podrl.runtime.watchdog import Watched
from podrl.types import Counters, Snapshot


class RecordFolder(NamedTuple):
    """Where a run's experience goes.

    Attributes:
        folder: The data set's folder.
        is_known: Whether the run has been started before, in its folder: then episodes of its name are its own.
    """

    folder: Path
    is_known: bool


@contextlib.contextmanager
def open_recording(
    assembly: Assembly, recorded: RecordFolder, run: str, begin: Counters, hooks: Hooks, services: Services, job: Job
) -> Iterator[Hooks]:
    """Opens the recording of a run, if it has one, and yields hooks that feed it.

    Each process writes the episodes of its own environments. What was recorded after the update at which the run
    resumes is dropped first.

    Args:
        assembly: The run's parts.
        recorded: Where its experience goes.
        run: The name of the run's folder.
        begin: Where the run resumes.
        hooks: Those of the process.
        services: Watch the thread.
        job: All processes.

    Raises:
        ConfigError: On all processes, if the folder does not fit on one of them.
        DataError: If the data set is damaged.
    """
    config = assembly.config
    if not config.record.path:
        yield hooks
        return
    resume = functools.partial(_resume, assembly, recorded, _facts(config, run), begin.learner_steps, job)
    writer = together(job, "data set", resume, config.actors.timeout_s)
    logging.info("Records into %s", recorded.folder)
    with contextlib.closing(RunRecorder(writer, timeout_s=config.actors.timeout_s)) as recorder:
        services.watchdog.watch(Watched(ledger=recorder.ledger, doing=recorder.doing, is_alive=recorder.is_alive))
        if _is_over(config, begin):
            recorder.commit(ends=True)
        feed = functools.partial(_feed, config, recorder, begin)
        yield dataclasses.replace(hooks, take_rollouts=feed, save=functools.partial(_commit, config, recorder))


def check_recording(assembly: Assembly, recorded: RecordFolder, run: str, job: Job) -> None:
    """Checks that a run can record where it is to, before it has a folder; writes nothing.

    Raises:
        ConfigError: On all processes, if the folder does not fit on one of them.
        DataError: If the data set is damaged.
    """
    config = assembly.config
    if not config.record.path:
        return

    def try_out() -> bool:
        folder = process_folder(recorded.folder, job.process_index)
        if folder.exists():
            _open(assembly, folder, _facts(config, run), is_known=recorded.is_known).close()
            return True
        there = next(parent for parent in folder.parents if parent.exists())
        check(
            there.is_dir() and os.access(there, os.W_OK | os.X_OK),
            f"record.path={folder} cannot be written: {there} is no folder, or does not let you. Name another folder.",
        )
        return True

    together(job, "data set to record into", try_out, config.actors.timeout_s)


def _facts(config: Config, run: str) -> dict[str, object]:
    """Returns what tells a run's recording from others."""
    return {"policy": "training", "run": run, "agent": config.agent.name, "seed": config.seed}


def _resume(assembly: Assembly, recorded: RecordFolder, facts: dict[str, object], update: int, job: Job) -> DataWriter:
    """Opens this process's part of the data set, and takes up the run's recording at an update."""
    folder = process_folder(recorded.folder, job.process_index)
    for other in _of_a_larger_job(recorded.folder, job):
        with DataWriter(other, read_manifest(other).spec) as left:
            left.resume(facts, update)
            left.end()
    writer = _open(assembly, folder, facts, is_known=recorded.is_known)
    try:
        writer.resume(facts, update)
    except BaseException:
        writer.close()
        raise
    return writer


def _open(assembly: Assembly, folder: Path, facts: dict[str, object], *, is_known: bool) -> DataWriter:
    """Opens a folder to write the run's rollouts into, if it has no episodes of another run of this name."""
    rollout = make_unroller(assembly.config, assembly.agent, assembly.spec, assembly.layout).state_shape.rollout
    behaviour = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[2:], x.dtype), rollout.behaviour)
    settings = to_plain(dataclasses.asdict(assembly.config.env))
    writer = DataWriter(folder, DataSpec(env=assembly.spec, behaviour=behaviour, settings=settings))
    try:
        manifest = writer.manifest
        own = {number for number, recording in enumerate(manifest.recordings) if recording.facts == facts}
        check(
            is_known or not any(shard.recording in own for shard in manifest.shards),
            f"record.path={folder} has episodes of another run {facts['run']!r}. Name another folder.",
        )
    except BaseException:
        writer.close()
        raise
    return writer


def _of_a_larger_job(place: Path, job: Job) -> list[Path]:
    """Returns the folders of processes that the job had before and has no more; this process sees to some of them."""
    folders, process = [], job.process_index + job.process_count
    while (process_folder(place, process) / DATA_MANIFEST).exists():
        folders.append(process_folder(place, process))
        process += job.process_count
    return folders


def _feed(
    config: Config, recorder: RunRecorder, begin: Counters, counters: Counters, rollouts: Sequence[Rollout]
) -> None:
    """Gives the recorder the rollouts of the update after `counters`."""
    if _is_over(config, counters):
        return
    update, schedule = counters.learner_steps, make_schedule(config, begin)
    reopened = update == schedule.boundary(update)
    trajectories = [trajectory for rollout in rollouts for trajectory in rollout.trajectories]
    recorder.add(update + 1, trajectories, _seeds(config.seed, update, exact=schedule.exact) if reopened else None)


def _seeds(seed: int, update: int, *, exact: bool) -> Callable[[int], int]:
    """Returns the seeds of environments that are opened at an update, as actors open them.

    With `determinism='free'` workers may open them at any time, and then they are not known.
    """
    return lambda env: env_seed((seed, update) if update else seed, env) if exact else -1


def _commit(config: Config, recorder: RunRecorder, snapshot: Snapshot) -> None:
    """Commits what ended up to a checkpoint, before that is made."""
    recorder.commit(ends=_is_over(config, snapshot.counters))


def _is_over(config: Config, counters: Counters) -> bool:
    """Returns whether a run that stands at `counters` has recorded all that it will."""
    steps = config.record.steps
    return is_finished(config, counters) or bool(steps and counters.env_steps >= steps)
