"""From a command line to a finished run: config, agent, environments, topology, run loop, exit code.

Exit codes: 0 finished; 1 failed; 2 a mistake in the command or the config (nothing was started); 75 stopped by SIGTERM,
SIGHUP or a notice and 130 by Ctrl-C, after the update in flight and with everything saved; 124 something stood still or
was waited for too long. After 1, 75, 124 and 130 the same command with `--workdir` resumes from the last checkpoint;
after 1 when its cause is removed.
"""

from collections.abc import Callable
import contextlib
import functools
import os
import sys
import threading
import time

from absl import logging
from etils import epath

from podrl.assembly import resume_at, run
from podrl.config.commandline import CommandLine
from podrl.config.config import MISTAKE, Config, ConfigError, check
from podrl.config.paths import absolute_path, absolute_workdir
from podrl.experience.schedule import last_update
from podrl.loops.common_start import find_starts, with_replay
from podrl.loops.failures import tell_of_failure
from podrl.loops.interface import Outcome, Services
from podrl.loops.opening import Place, open_checkpoints, open_places, open_seeds
from podrl.loops.recording import RecordFolder, check_recording
from podrl.loops.services import agree_on_end, make_hooks, make_summary, open_instruments
from podrl.runs.checkpoint_errors import CheckpointError
from podrl.runs.folder_guard import FolderGuard, FolderLostError
from podrl.runs.naming import default_folder
from podrl.runs.opening import open_folder
from podrl.runs.run_files import holds_run
from podrl.runs.warm_start import find_weights
from podrl.runs.workdir import make_manifest
from podrl.runtime.container_limits import explain_limit
from podrl.runtime.interruption import interruptible, leave
from podrl.runtime.job.agreement import make_stop
from podrl.runtime.job.job import ALONE, Job
from podrl.runtime.job.joining import join
from podrl.runtime.job.place import find_place
from podrl.runtime.job.preflight import check_job
from podrl.runtime.process_exit import contained
from podrl.runtime.stop_signals import INTERRUPTED, ending_waits
from podrl.runtime.tool import refuse_module
from podrl.runtime.watchdog import STALLED
from podrl.smoke_data import with_smoke_data
from podrl.starting import assemble_job, set_up_process
from podrl.types import Counters


def main(command: CommandLine) -> int:
    """Runs what the command line asks for and returns the exit code.

    Raises:
        ConfigError: on a mistake of the user's, before anything was started.
    """
    membership = find_place(os.environ, command)
    config = set_up_process(command.config, membership, alone=command.alone)
    check(
        not command.start_anew or os.environ.get("SLURM_RESTART_COUNT", "0") in ("", "0"),
        "--start_anew would delete what this job made before SLURM restarted it. Submit it without.",
    )
    job = ALONE
    try:
        try:  # A signal ends the wait for others at once.
            with ending_waits(lambda said, code: job.fail(said, code)):
                job = join(membership, command.join_timeout_s, os.environ)
                check_job(job, membership, config, command)
        except TimeoutError as error:
            logging.error("%s", error)
            leave(STALLED)
        with interruptible() as interruption, contained():
            outcome = train(
                config,
                workdir=command.workdir,
                argv=command.argv,
                profile=command.profile,
                accept_changes=command.accept_changes,
                start_anew=command.start_anew,
                init_from=command.init_from,
                stop_code=interruption.code,
                job=job,
            )
            code = 0 if outcome.finished else outcome.stop_code
            job.leave(code)
    except ConfigError as error:
        job.fail(str(error), MISTAKE)
        raise
    except KeyboardInterrupt:  # A run that is under way catches it.
        job.fail("told to stop by Ctrl-C", INTERRUPTED)
        raise
    except Exception as error:  # noqa: BLE001 (the last line of defence: one clear line, the details below it)
        if isinstance(error.__cause__, ConfigError):
            job.fail(str(error.__cause__), MISTAKE)
            raise error.__cause__ from None
        return _exit_code(tell_of_failure(error, job), job, error)
    return _exit_code(code, job)


def train(
    config: Config,
    *,
    workdir: str | None = None,
    argv: tuple[str, ...] = (),
    profile: bool = False,
    accept_changes: bool = False,
    start_anew: bool = False,
    init_from: str | None = None,
    stop_code: Callable[[], int] = lambda: 0,
    job: Job = ALONE,
) -> Outcome:
    """Trains one agent, with progress on the terminal and results in `workdir`; resumes the run that is there.

    Args:
        config: The run's config.
        workdir: The run's folder; by default `runs/<config>-<environment>-<time>`.
        argv: The command, for the manifest.
        profile: Whether to trace a few updates, into `profile/` of that folder.
        accept_changes: Whether the run in that folder may have been of another config.
        start_anew: Whether to delete what the run in that folder has, and to begin at update 0.
        init_from: Absolute path of another run's folder, with whose newest weights this one begins.
        stop_code: Returns the exit code of the signal that has come to this process; asked before every update and in
            long waits. A code other than 0 ends the run on all processes.
        job: All processes.

    Raises:
        ConfigError: if the parts do not fit together.
        ActorError: if an actor thread failed.
        EvaluationError: if an evaluation did.
        FolderLostError: if its folder was moved, deleted or taken by another run.
        TimeoutError: if one thread waited too long for another.
        CheckpointError: if a checkpoint could not be saved.
    """
    start_s = time.perf_counter()
    # Before any environment can change the folder.
    place = absolute_workdir(workdir or default_folder(config.name, config.env.id))
    on_stall = functools.partial(tell_of_stall, job, config.watchdog_s)
    config = with_smoke_data(config.with_absolute_data(), place, job, on_stall=on_stall)
    recorded = RecordFolder(absolute_path(config.record.path), is_known=start_anew or holds_run(epath.Path(place)))
    assembly = assemble_job(config, job, on_stall, resumes_in=None if start_anew else place)
    check_recording(assembly, recorded, os.path.basename(place), job)
    anew, num_seeds = start_anew or not workdir, config.topology.seeds
    weights = find_weights(init_from, place, assembly.state_shape, job, num_seeds=num_seeds, start_anew=anew)
    # Hosts may differ in how long they take to restore; one that is lost meanwhile is missed at once.
    share = functools.partial(job.exchange, "state of the run", timeout_s=max(config.patience_s, config.watchdog_s))
    with contextlib.ExitStack() as stack:
        guard = stack.enter_context(FolderGuard(stop_code))
        before, data_hash = assembly.spec.env_before, assembly.data_hash
        accepting = functools.partial(open_folder, accept_changes=accept_changes, start_anew=start_anew)
        open_one = functools.partial(accepting, job=job, env_before=before, data_hash=data_hash)
        whole = Place(*open_one(assembly.asked, place, guard, is_new=not workdir), guard)
        places = open_places(stack, assembly.asked, whole, open_one, stop_code)
        instruments = stack.enter_context(open_instruments(assembly, whole.folder, job, on_stall, profile=profile))
        display, watchdog, profiler, ledger = instruments
        checkpointers = open_checkpoints(stack, assembly, places)
        with ledger.spend("checkpoint"):
            starts = find_starts(assembly, places, checkpointers, share)
        starts = [with_replay(*each) for each in zip(assembly.of_each_seed(), starts, strict=True)]
        begin = starts[0].counters if starts[0] else Counters()
        assembly = resume_at(assembly, begin)
        profiler.last_update = last_update(assembly.config, begin)
        hardware = (assembly.config, assembly.topology, argv, job.hosts)
        manifest = {**make_manifest(*hardware, data_hash=data_hash), **weights.record}
        checks = [each.check_save for each in checkpointers]
        stop, vote = make_stop(job, assembly.topology.learner, stop_code)
        seeds = open_seeds(
            *(stack, assembly, whole, places),
            starts=starts,
            checkpointers=checkpointers,
            instruments=instruments,
            manifest=manifest,
            recorded=recorded._replace(is_known=whole.resumes or start_anew),
            hooks=make_hooks(instruments, checks=(*checks, vote), begin=weights.put),
            services=Services(stop=stop, ledger=ledger, watchdog=watchdog, annotate=profiler.annotate),
            job=job,
        )
        first = seeds[0]
        outcome = run(
            assembly, start=first.start, hooks=first.hooks, services=first.services, job=job, seeds=tuple(seeds)
        )
        profiler.close()
        with ledger.spend("checkpoint"):
            for checkpointer in checkpointers:
                checkpointer.close()
            outcome = agree_on_end(outcome, stop_code(), share, job.name_of)
        if not outcome.finished:
            logging.info("To resume: the same command with --workdir=%s", whole.folder)
        wall_s = time.perf_counter() - start_s
        display.summary(make_summary(assembly, outcome, whole.folder, start=first.start, wall_s=wall_s))
    return outcome


def tell_of_stall(job: Job, limit_s: float) -> None:
    """Gives the terminal back, and tells the other processes that this one is about to end."""
    job.on_loss()
    job.fail(f"it stood still for {limit_s:.0f} s", STALLED)


def _exit_code(code: int, job: Job, error: Exception | None = None) -> int:
    """`code`; leaves with it at once if something is stuck, which would hold up an orderly exit.

    That is a thread, a device, or the writes of a failed save: Orbax abandons these, and each would print an error
    of its own while Python shuts down.
    """
    names = ("actor ", "evaluator", "data-reader", "recorder")  # Threads of a run, by how their names begin.
    stuck = code == STALLED or any(thread.name.startswith(names) for thread in threading.enumerate())
    waits = error and (job.process_count > 1 or explain_limit(error))  # For devices, or threads never started.
    if stuck or waits or isinstance(error, CheckpointError | FolderLostError):
        leave(code)
    return code


if __name__ == "__main__":
    sys.exit(refuse_module("podrl.train", "train --config impala_catch"))
