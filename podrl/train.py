"""From a command line to a finished run: config, agent, environments, topology, run loop, exit code.

Exit codes: 0 finished; 1 failed; 2 a mistake in the command or the config (nothing was started); 75 stopped by SIGTERM,
SIGHUP or a notice and 130 by Ctrl-C, after the update in flight and with everything saved; 124 something stood still or
was waited for too long. After 1, 75, 124 and 130 the same command with `--workdir` goes on, from the last checkpoint;
after 1 once the cause is gone.
"""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import functools
import json
import os
import re
import sys
import threading
import time

from absl import logging
from etils import epath
import jax
from rich.console import Console

from podrl.assembly import assemble, describe_assembly, resolve, resume_at, run
from podrl.config.commandline import CommandLine
from podrl.config.config import MISTAKE, Config, ConfigError, check
from podrl.config.config_dict import to_dict
from podrl.config.paths import absolute_workdir
from podrl.evaluation.endless import check_evaluation
from podrl.evaluation.evaluator import OFF, ROW_KEY, Evaluator, make_evaluator
from podrl.experience.schedule import is_finished, last_update
from podrl.loops.interface import Assembly, Hooks, Outcome, Services
from podrl.mistakes import shorten
from podrl.runs.checkpoint_errors import CheckpointError
from podrl.runs.folder_guard import FolderGuard, FolderLostError
from podrl.runs.naming import default_folder
from podrl.runs.opening import open_folder
from podrl.runs.records import read_manifests
from podrl.runs.resume import find_start, make_checkpointer, warn_of_changes, warn_of_learning_rate, with_clock
from podrl.runs.workdir import make_manifest, write_facts
from podrl.runtime.compilation_cache import use_compilation_cache
from podrl.runtime.container_limits import check_threads, explain_limit
from podrl.runtime.interruption import interruptible, leave
from podrl.runtime.job.agreement import from_first, make_stop, together
from podrl.runtime.job.job import ALONE, Job
from podrl.runtime.job.joining import join
from podrl.runtime.job.local_gpus import check_gpus
from podrl.runtime.job.membership import Membership
from podrl.runtime.job.place import find_place, warn_of_unread_launcher
from podrl.runtime.job.preflight import check_agreement, make_device_facts, make_process_facts
from podrl.runtime.ledger import Ledger
from podrl.runtime.machine import available_cores, jax_plugins, keep_freed_memory, require_determinism, suit_xla_to_cpu
from podrl.runtime.process_exit import contained
from podrl.runtime.profiler import Profiler
from podrl.runtime.stop_signals import INTERRUPTED, ending_waits
from podrl.runtime.streams import keep_printing
from podrl.runtime.tool import refuse_module
from podrl.runtime.watchdog import STALLED, Watchdog, Watched
from podrl.telemetry.display import Display, configure_logging
from podrl.telemetry.kept_rows import has_row_with
from podrl.telemetry.panel import Summary
from podrl.telemetry.reporter import Reporter
from podrl.telemetry.writer import MetricsWriter
from podrl.types import Counters, EnvSpec, Snapshot

_STATUS = re.compile("(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED): ")  # As the runtime's begin.


def main(command: CommandLine) -> int:
    """Runs what the command line asks for and returns the exit code.

    Raises:
        ConfigError: on a mistake of the user's, before anything was started.
    """
    membership = find_place(os.environ, command)
    configure_logging(membership.process_index)
    keep_printing()
    warn_of_unread_launcher(os.environ, membership, alone=command.alone)
    check_gpus(os.environ, membership, jax_plugins())
    keep_freed_memory()
    suit_xla_to_cpu(os.environ, jax_plugins())
    check_threads(os.environ, available_cores())
    use_compilation_cache()
    config = resolve(command.config)
    check(
        not command.start_anew or os.environ.get("SLURM_RESTART_COUNT", "0") in ("", "0"),
        "--start_anew would delete what this job made before SLURM restarted it. Submit it without.",
    )
    if config.determinism == "exact":
        require_determinism(os.environ, jax_plugins())
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
        lost = job.explain_loss() if is_of_the_runtime(error) else None
        if lost:
            logging.error("%s", lost)
            leave(job.exit_code)
        code = _failure_code(error)
        limit = explain_limit(error)
        said = limit or str(error) or type(error).__name__
        logging.error("The run failed: %s", said)
        if limit is None and code != MISTAKE:
            logging.error("Details:", exc_info=error.__cause__ or error)
        job.fail(said, code)
        return _exit_code(code, job, error)
    return _exit_code(code, job)


def is_of_the_runtime(error: BaseException) -> bool:
    """Whether an error may come of a reduction that lost a process: on CPU not all of those are `JaxRuntimeError`s."""
    errors = (error, error.__cause__)
    return any(isinstance(e, jax.errors.JaxRuntimeError) or _STATUS.match(str(e)) for e in errors if e is not None)


def check_job(job: Job, membership: Membership, config: Config, command: CommandLine) -> None:
    """Agrees with the other processes, if there are any, on what each of them is about to do.

    Raises:
        ConfigError: if the processes are not alike; says who differs in what.
        TimeoutError: if one does not say what it is about to do; names it.
    """
    if membership.process_count > 1 or membership.platform != "alone":
        logging.info("%s.", membership.describe())
    if job.process_count > 1:
        flags = {name: getattr(command, name) for name in ("workdir", "profile", "accept_changes", "start_anew")}
        skew_s = check_agreement(job, make_process_facts(config, flags), command.join_timeout_s)
        check_agreement(job, make_device_facts(), command.join_timeout_s)
        if job.process_index == 0:
            logging.info("All %d processes agree; their clocks differ by %.1f s.", job.process_count, skew_s)
        else:  # What is no warning is told once for the job.
            logging.set_verbosity(logging.WARNING)


def train(
    config: Config,
    *,
    workdir: str | None = None,
    argv: tuple[str, ...] = (),
    profile: bool = False,
    accept_changes: bool = False,
    start_anew: bool = False,
    stop_code: Callable[[], int] = lambda: 0,
    job: Job = ALONE,
) -> Outcome:
    """Trains one agent, with progress on the terminal and results in `workdir`; goes on with the run that is there.

    Args:
        config: the whole run.
        workdir: folder of the run; by default `runs/<config>-<time>`.
        argv: the command, for the manifest.
        profile: whether to trace a few updates, into `profile/` of that folder.
        accept_changes: whether the run in that folder may have been of another config.
        start_anew: whether to delete what the run in that folder has, and to begin at update 0.
        stop_code: asked before every update, and in long waits: anything but 0 ends the run, on all processes.
        job: which process of how many this is.

    Raises:
        ConfigError: if the parts do not fit together.
        ActorError: if an actor thread failed.
        EvaluationError: if an evaluation did.
        FolderLostError: if its folder was moved, deleted or taken by another run.
        TimeoutError: if one thread waited too long for another.
        CheckpointError: if a checkpoint could not be saved.
    """
    start_s, first = time.perf_counter(), job.process_index == 0
    place = absolute_workdir(workdir or default_folder(config.name))  # Before any environment can change the folder.
    on_stall = functools.partial(tell_of_stall, job, config.watchdog_s)
    patience_s = config.actors.timeout_s + (config.evaluate.timeout_s if config.evaluate.every_updates else 0.0)
    assembly = assemble_job(config, job, on_stall, patience_s)
    asked, config = dataclasses.replace(config, env=assembly.config.env), assembly.config  # Options as they were read.
    # Hosts may differ in how long they take to restore; one that is lost meanwhile is missed at once.
    share = functools.partial(job.exchange, "state of the run", timeout_s=max(patience_s, config.watchdog_s))
    with contextlib.ExitStack() as stack:
        guard = stack.enter_context(FolderGuard(stop_code))
        folder, resumes = open_folder(
            *(asked, place, guard, job),
            is_new=not workdir,
            accept_changes=accept_changes,
            start_anew=start_anew,
            env_before=assembly.spec.env_before,
            timeout_s=patience_s,
        )
        display = stack.enter_context(open_display(config, folder, shown=first))
        job.on_loss = display.close
        watchdog = stack.enter_context(Watchdog(config.watchdog_s, on_stall=on_stall))
        profiler = stack.enter_context(
            Profiler(folder / "profile", last_update=config.num_updates, enabled=profile and first)
        )
        ledger = Ledger("learner", annotate=profiler.annotate)
        watchdog.watch(Watched(ledger=ledger, doing=lambda: "learner gets ready", is_alive=lambda: True))
        checkpointer = stack.enter_context(make_checkpointer(config, folder))
        for line in describe_assembly(assembly, str(folder)):
            logging.info("%s", line)

        start = None
        if resumes:
            with ledger.spend("checkpoint"):
                start = find_start(config, folder, checkpointer, assembly.state_shape, share)
        begin = start.counters if start else Counters()
        assembly = resume_at(assembly, begin)
        profiler.last_update = last_update(config, begin)
        manifest = make_manifest(config, assembly.topology, argv, job.hosts)
        reporter = None
        if first:
            if resumes and not is_finished(config, begin):
                warn_of_changes(config, read_manifests(folder), manifest)
                warn_of_learning_rate(folder, asked, start)
            write_facts(folder, asked, manifest)
            start = with_clock(start, folder)
            kept = begin if resumes else None
            writer = stack.enter_context(MetricsWriter(folder, tensorboard=config.log.tensorboard, resumed=kept))
            advises = not profile and config.topology.placement == "sebulba"  # It is about threads that wait.
            parts = (config, assembly.topology, writer, display, ledger, start, guard.check_news)
            reporter = Reporter(*parts, start_s=time.perf_counter(), advises=advises)
        evaluator = stack.enter_context(open_evaluator(assembly, begin, folder, reporter))
        watchdog.watch(Watched(ledger=evaluator.ledger, doing=evaluator.doing, is_alive=evaluator.is_alive))
        stop, vote = make_stop(job, assembly.topology.learner, stop_code)

        def before_update(launched: Counters, ended: Counters) -> None:
            display.advance(ended)
            checkpointer.check_save()
            profiler.before_update(launched.learner_steps + 1)
            vote()

        def save(snapshot: Snapshot) -> None:
            guard.check()
            if reporter:
                reporter.before_checkpoint(snapshot)  # A run that resumes from it does not make these rows again.
            checkpointer.save(snapshot, config=to_dict(asked), manifest=manifest)

        write_row = reporter.write_row if reporter else lambda row: None
        hooks = Hooks(show_phase=display.phase, before_update=before_update, write_row=write_row, save=save)
        services = Services(
            stop=stop, evaluator=evaluator, ledger=ledger, watchdog=watchdog, annotate=profiler.annotate
        )
        outcome = run(assembly, start=start, hooks=hooks, services=services, job=job)
        profiler.close()
        with ledger.spend("checkpoint"):
            checkpointer.close()
            outcome = agree_on_end(outcome, stop_code(), share, job.name_of)
        if not outcome.finished:
            logging.info("To go on: the same command with --workdir=%s", folder)
        display.summary(make_summary(config, assembly.spec, outcome, wall_s=time.perf_counter() - start_s))
    return outcome


def assemble_job(config: Config, job: Job, on_stall: Callable[[], None], timeout_s: float) -> Assembly:
    """Puts the parts of a run together on every process, and tries whether its evaluations can end.

    Raises:
        ConfigError: On all processes, if the parts do not fit together on one of them.
    """
    with Watchdog(config.watchdog_s, on_stall=on_stall) as watchdog:  # An environment may hang in its constructor.
        make = functools.partial(assemble, config, watching=watchdog.during)
        assembly = together(job, "parts of the run", make, config.actors.timeout_s)
        parts = (assembly.config, assembly.source, assembly.spec)
        can_end = functools.partial(check_evaluation, *parts, watching=watchdog.during)
        from_first(job, "evaluation", can_end, timeout_s=timeout_s)
    return assembly


def open_display(config: Config, folder: epath.Path, *, shown: bool) -> Display:
    """The display of a run; of a process that is not the first it prints nothing."""
    console = None if shown else Console(quiet=True)
    return Display(config.name, config.env.id, config.total_env_steps, folder, console)


def open_evaluator(assembly: Assembly, begin: Counters, folder: epath.Path, reporter: Reporter | None) -> Evaluator:
    """The evaluator of a run that starts at `begin`; one that is off where there is no reporter."""
    evaluator = make_evaluator(
        assembly.config,
        agent=assembly.agent,
        spec=assembly.spec,
        source=assembly.source,
        device=assembly.topology.local_actor_devices[-1],
        begun=begin,
        done={begin.learner_steps} if reporter and has_row_with(folder, ROW_KEY, begin.learner_steps) else set(),
        write=reporter.write_evaluation if reporter else lambda counters, episodes: None,
    )
    return evaluator if reporter else OFF


def tell_of_stall(job: Job, limit_s: float) -> None:
    """Gives the terminal back, and tells the other processes that this one is about to end."""
    job.on_loss()
    job.fail(f"it stood still for {limit_s:.0f} s", STALLED)


def agree_on_end(
    outcome: Outcome, stop_code: int, share: Callable[[str], Sequence[str]], name_of: Callable[[int], str]
) -> Outcome:
    """How the run ended for all processes: finished if it is for each, and stopped by the highest code of any.

    Args:
        outcome: of this process.
        stop_code: of a signal that has come to this process, perhaps after the last vote.
        share: brings a text of this process to all of them, and theirs here.
        name_of: a process, for people.
    """
    ends = [json.loads(text) for text in share(json.dumps([outcome.finished, outcome.stop_code, stop_code]))]
    told = [name_of(process) for process, (_, _, code) in enumerate(ends) if code]
    if told and len(ends) > 1:
        logging.info("Told to stop: %s.", shorten(told))
    return dataclasses.replace(
        outcome,
        finished=all(finished for finished, _, _ in ends),
        stop_code=max(max(voted, code) for _, voted, code in ends),
    )


def make_summary(config: Config, spec: EnvSpec, outcome: Outcome, *, wall_s: float) -> Summary:
    """What the display shows in the end."""
    return Summary(
        outcome="finished" if outcome.finished else "interrupted",
        counters=outcome.counters,
        wall_s=wall_s,
        compile_s=outcome.compile_s,
        env_steps_per_second=outcome.env_steps_per_second,
        frames_per_second=outcome.env_steps_per_second * spec.frames_per_step,
        episode_return=outcome.episode_return,
        episodes=outcome.episodes,
        tensorboard=config.log.tensorboard,
    )


def _failure_code(error: Exception) -> int:
    if isinstance(error, FolderLostError):  # A restart would begin anew at the old place.
        return MISTAKE
    return STALLED if isinstance(error.__cause__ or error, TimeoutError) else 1


def _exit_code(code: int, job: Job, error: Exception | None = None) -> int:
    """`code`; leaves with it at once if something is stuck, which would hold up an orderly exit.

    That is a thread, a device, or the writes of a failed save: Orbax abandons these, and each would print an error
    of its own while Python shuts down.
    """
    stuck = code == STALLED or any(thread.name.startswith(("actor ", "evaluator")) for thread in threading.enumerate())
    waits = error and (job.process_count > 1 or explain_limit(error))  # For devices, or threads never started.
    if stuck or waits or isinstance(error, CheckpointError | FolderLostError):
        leave(code)
    return code


if __name__ == "__main__":
    sys.exit(refuse_module("podrl.train", "tools/tpu_launch.py --config configs/impala_catch.py"))
