"""Starts what a command line with launch flags asks for."""

from collections.abc import Callable, Sequence
import contextlib
import os
from pathlib import Path
import shlex
import sys

from absl import logging
from ml_collections.config_dict import RequiredValueError

from podrl.config.commandline import CommandLine
from podrl.config.config import check
from podrl.config.programs import ROOT, members_program
from podrl.launch import local, slurm
from podrl.launch.config_check import check_config
from podrl.launch.env_workers import (
    ACTOR_WORKERS,
    ENV_WORKERS,
    check_not_chosen,
    env_workers_beside,
    with_workers,
    worker_commands,
)
from podrl.launch.job_end import JobEnd
from podrl.launch.members import Limits, run_members
from podrl.launch.options import Options
from podrl.launch.restarts import run_with_restarts
from podrl.launch.signals import StopSignals
from podrl.launch.tpu import POLL_S, launch_on_tpu
from podrl.runs.naming import default_folder, free_folder, job_folder, make_new_folder
from podrl.runs.progress import newest_update
from podrl.runtime.job.detection import find_membership
from podrl.runtime.plain_logging import log_as
from podrl.runtime.stop_signals import INTERRUPTED, PREEMPTED

MEMBERSHIP = ("--coordinator", "--process_count", "--process_index", "--alone")


def launch(
    options: Options,
    argv: Sequence[str],
    command: CommandLine,
    *,
    limits: Limits | None = None,
    root: Path = ROOT,
    poll_s: float = POLL_S,
    check_first: Callable[[Sequence[str]], None] = check_config,
) -> int:
    """Starts what `options` asks for, waits until it has ended, and returns the exit code.

    Args:
        options: where and how to run.
        argv: the command line without the launch flags; its first entry is the program that members run.
        command: the same, parsed: a command with a mistake starts nothing.
        limits: time limits for members to end.
        root: root of the checkout, which is shipped to machines without one.
        poll_s: seconds between two queries of a TPU that is not ready.
        check_first: checks the config of `argv` as the training does, in seconds.

    Raises:
        ConfigError: on a mistake of the user's.
    """
    _check_membership(options, argv)
    check(
        not (command.start_anew and (options.max_restarts or options.slurm or options.tpu)),
        "--start_anew would delete the run again at every restart. Give it to a command without --max_restarts, "
        "--slurm or --tpu, or choose another --workdir.",
    )
    log_as("launcher")
    if _is_worth_a_check(options, argv):
        workers = options.env_workers or options.env_nodes
        check_first([*argv, *([f"--config.remote.env_workers={workers}"] if options.env_nodes else [])])
    if options.tpu is not None:
        return launch_on_tpu(options, argv[1:], command.workdir, root=root, poll_s=poll_s, limits=limits)
    workdir = command.workdir or _make_workdir(options, command)
    arguments = [*argv[1:], *([] if command.workdir else [f"--workdir={workdir}"])]
    try:
        if options.slurm:
            return _launch_slurm(
                options,
                members_program(os.path.abspath(argv[0])),
                arguments,
                workdir,
                command.config.get("name", "run"),
            )
        replaces = command.config.get("determinism") == "free"
        return _launch_here(options, members_program(argv[0]), arguments, workdir, limits, replaces_workers=replaces)
    finally:
        if command.workdir is None:
            with contextlib.suppress(OSError):
                os.rmdir(workdir)  # Empty, since nothing was started.


def _is_worth_a_check(options: Options, argv: Sequence[str]) -> bool:
    """Returns whether the whole config is checked before anything starts.

    Elsewhere a mistake would show late. Processes on this machine check it at once themselves; only if several were
    given keys that the launcher itself cannot check, those of the agent, one check for all precedes them.
    """
    is_elsewhere = options.slurm or options.tpu is not None
    has_agent_keys = any(argument.lstrip("-").startswith("config.agent.") for argument in argv[1:])
    return is_elsewhere or ((options.local_processes or 1) > 1 and has_agent_keys)


def _check_membership(options: Options, argv: Sequence[str]) -> None:
    """Raises `ConfigError` for flags of one member, unless this command is one member with `--max_restarts`."""
    with_theirs = options.env_workers is not None or options.actor_workers is not None
    if options.local_processes is None and not options.slurm and options.tpu is None and not with_theirs:
        return
    for flag in (argument.partition("=")[0] for argument in argv[1:]):
        check(
            flag not in MEMBERSHIP,
            f"{flag} is for one member of a job that you start by hand; the launcher gives it to those that it starts. "
            "Drop it, or the launch flags.",
        )


def _launch_here(
    options: Options,
    program: Sequence[str],
    arguments: list[str],
    workdir: str,
    limits: Limits | None,
    *,
    replaces_workers: bool = False,
) -> int:
    gpus = local.visible_gpus(os.environ) if options.local_processes else []
    cores = local.usable_cores()

    def members(port: int) -> list[local.Member]:
        return local.make_members(
            arguments,
            program=program,
            num_processes=options.local_processes or 1,
            devices_per_process=options.devices_per_process,
            gpus=gpus,
            cores=cores,
            port=port,
        )

    flag = ENV_WORKERS if options.actor_workers is None else ACTOR_WORKERS
    count = options.env_workers or options.actor_workers
    if options.dry_run:
        return _show_here(members(local.free_port()), count or 0, flag)
    with StopSignals() as stop:

        def attempt() -> JobEnd:
            processes = members(local.free_port())
            with env_workers_beside(processes, count, flag=flag, replaces=replaces_workers) as with_theirs:
                return run_members(with_theirs, stop, limits=limits)

        ending = run_with_restarts(
            attempt,
            stop,
            max_restarts=options.max_restarts or 0,
            pause_s=options.restart_pause_s,
            newest_update=lambda: newest_update(workdir),
        )
    if (options.local_processes or 1) > 1 and ending.code not in (0, PREEMPTED, INTERRUPTED):
        logging.info("Exit code %d: %s.", ending.code, ending.text)
    return ending.code


def _show_here(members: Sequence[local.Member], count: int, flag: str) -> int:
    """Prints what starts the processes, and `count` workers of theirs, by hand."""
    address = f"127.0.0.1:{local.free_port()}"
    if count:
        members = [with_workers(member, address, count, {}, flag=flag) for member in members]
    for index, member in enumerate(members):
        sys.stdout.write(f"# Process {index} of {len(members)}, on this machine:\n{local.shell_line(member)}\n")
    for index, command in enumerate(worker_commands(address, count, len(members), flag)):
        sys.stdout.write(f"# Worker {index} of {count}:\n{shlex.join(command)}\n")
    return 0


def _launch_slurm(options: Options, program: Sequence[str], arguments: list[str], workdir: str, name: str) -> int:
    check("://" not in workdir, f"--workdir={workdir}: a SLURM job wants a folder that all nodes share.")
    if options.env_nodes is not None:
        check_not_chosen(arguments)
    folder = os.path.abspath(workdir)
    script = slurm.make_script(
        options,
        name=name,
        program=program,
        arguments=arguments,
        workdir=folder,
        cwd=os.getcwd(),
    )
    if options.dry_run:
        sys.stdout.write(script)
        return 0
    if options.cpus_per_task is None:
        logging.warning("Without --cpus_per_task SLURM gives each process its default, often a single core.")
    job = slurm.submit_job(script, folder)
    sys.stdout.write(
        f"Submitted as SLURM job {job}; its script is {folder}/{slurm.SCRIPT}.\n"
        f"What it says:     tail -F {shlex.quote(folder)}/slurm-{job}.out\n"
        f"Where it stands:  squeue --jobs={job}\n"
        f"To end it:        scancel {job}\n"
        f"To resume:        the same command with --workdir={shlex.quote(workdir)}\n"
    )
    return 0


def _make_workdir(options: Options, command: CommandLine) -> str:
    """Returns a new folder, which all members and all restarts are told."""
    try:
        env_id = str(command.config.env.id)
    except (AttributeError, RequiredValueError):  # The run says so.
        env_id = ""
    name = (command.config.get("name", "run"), env_id)
    if options.dry_run:
        return str(free_folder(default_folder(*name)))
    if options.slurm or options.local_processes or command.alone:
        return str(make_new_folder(default_folder(*name)))
    given = {each: getattr(command, each) for each in ("coordinator", "process_count", "process_index")}
    count = find_membership(os.environ, **given, metadata=lambda key: None).process_count
    if count == 1:
        return str(make_new_folder(default_folder(*name)))
    shared = job_folder(*name, os.environ)
    check(
        shared is not None,
        f"--max_restarts for each of {count} processes needs a --workdir, the same for all: each would make a folder "
        "of its own.",
    )
    return str(shared)
