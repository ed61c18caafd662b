"""Starts a run's environment workers, or its actor workers, on this machine, beside the processes that train.

They meet at a Unix socket in a folder that only this user can enter, and the file with the job's secret lies beside it.
They print their own lines, get none of the user's signals, and end with the run; the kernel kills them when the
launcher ends. Where the run can continue without a worker, one that has ended is started again.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import functools
import importlib.util
import os
from pathlib import Path
import signal
import subprocess
import sys
import tempfile
import time

from absl import logging

from podrl.config.config import check
from podrl.config.extras import install_command
from podrl.config.programs import start_arguments
from podrl.config.remote import NO_CERTIFICATES
from podrl.experience.remote.endpoint import LONGEST_SOCKET, UNIX, Endpoint, address_of_process
from podrl.launch.members import Member
from podrl.launch.preparation import preparation
from podrl.launch.worker_watch import WorkerWatch
from podrl.runtime.job.secret import FILE_VARIABLE, VARIABLE, make_secret
from podrl.runtime.waiting import Patience

ENV_WORKERS, ACTOR_WORKERS = "env_workers", "actor_workers"  # Flags, and config keys.
_NOUNS = {ENV_WORKERS: "environment worker", ACTOR_WORKERS: "actor worker"}
_COMMANDS = {ENV_WORKERS: "env_worker", ACTOR_WORKERS: "actor_worker"}
_PAUSE_S, _GRACE_S = 1.0, 10.0  # Until those that no run has admitted are told to end, and until all are killed.
_POLL_S = 0.1


@contextlib.contextmanager
def env_workers_beside(
    members: Sequence[Member],
    count: int | None,
    *,
    flag: str = ENV_WORKERS,
    replaces: bool = False,
    program: Path | None = None,
) -> Iterator[list[Member]]:
    """Starts workers, and yields the members with what they need to find each other.

    Args:
        members: the processes that train.
        count: number of workers; None for none.
        flag: the flag of their kind, `ENV_WORKERS` or `ACTOR_WORKERS`.
        replaces: whether the run admits another worker in place of one that has ended, which is then started.
        program: The program that each of them runs; by default that of their kind.

    Raises:
        ConfigError: if gRPC is missing, the command line gives what is chosen here, or no socket can be made.
    """
    if count is None:
        yield list(members)
        return
    check_grpc(flag)
    with tempfile.TemporaryDirectory(prefix="podrl-") as folder, contextlib.ExitStack() as stack:
        secret, address = Path(folder) / "secret", f"{UNIX}{folder}/workers"
        with_theirs = [
            with_workers(member, address, count, {FILE_VARIABLE: str(secret)}, flag=flag) for member in members
        ]
        for index in range(len(members)):
            path = address_of_process(address, index, len(members)).removeprefix(UNIX)
            check(
                len(path.encode()) <= LONGEST_SOCKET,
                f"--{flag}: {path} is too long for a Unix socket, whose path has at most {LONGEST_SOCKET} bytes. "
                "Set TMPDIR to a folder with a shorter path, such as /tmp.",
            )
        descriptor = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(members[0].environ.get(VARIABLE) or make_secret())
        processes: list[subprocess.Popen[bytes]] = []
        starts = [
            functools.partial(_start, [*command, "--quiet"], {FILE_VARIABLE: str(secret)})
            for command in worker_commands(address, count, len(members), flag, program)
        ]
        places = [Endpoint(place) for place in _places(address, count, len(members))]
        watch = WorkerWatch(processes, places, starts if replaces else (), _NOUNS[flag])
        stack.callback(_end, processes, watch, _NOUNS[flag])
        for start in starts:
            processes.append(start())
        watch.start()
        yield with_theirs


def with_workers(
    member: Member, address: str, count: int, environ: Mapping[str, str], *, flag: str = ENV_WORKERS
) -> Member:
    """Returns a process that trains, told that its workers come to `address`, within the host.

    Raises:
        ConfigError: if its command line says something else.
    """
    check_not_chosen(member.command, flag)
    settings = (
        f"--config.remote.certificates={NO_CERTIFICATES}",
        f"--config.remote.{flag}={count}",
        f"--config.remote.address={address}",
    )
    return dataclasses.replace(member, command=(*member.command, *settings), environ={**member.environ, **environ})


def check_grpc(flag: str = ENV_WORKERS) -> None:
    """Raises `ConfigError` if there is no gRPC for the workers of this kind."""
    has_grpc = importlib.util.find_spec("grpc") is not None
    check(has_grpc, f"--{flag} needs gRPC, which is not installed: {install_command('workers')}.")


def check_not_chosen(arguments: Sequence[str], flag: str = ENV_WORKERS) -> None:
    """Raises `ConfigError` if a command line says where workers come to, which the launcher chooses."""
    for given in (argument.partition("=")[0] for argument in arguments):
        check(
            given not in (f"--config.remote.{flag}", "--config.remote.address"),
            f"{given} is chosen by --{flag}, as {_NOUNS[flag]}s are started with the run. Drop one of them; "
            f"docs/howto/workers_hosts.md says how to start {_NOUNS[flag]}s by hand.",
        )


def worker_commands(
    address: str, count: int, num_processes: int, flag: str, program: Path | None = None
) -> list[list[str]]:
    """Returns the command of each worker; without a `program` it is that of the flag's kind."""
    arguments = start_arguments(_COMMANDS[flag]) if program is None else (str(program),)
    places = _places(address, count, num_processes)
    return [[sys.executable, *arguments, "--connect", place] for place in places]


def _places(address: str, count: int, num_processes: int) -> list[str]:
    """Returns where each worker connects; each process that trains has every `num_processes`-th of them."""
    return [address_of_process(address, index % num_processes, num_processes) for index in range(count)]


def _start(command: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=preparation(()),
    )


def _end(processes: Sequence[subprocess.Popen[bytes]], watch: WorkerWatch, noun: str) -> None:
    """Waits a moment for the workers, whose run has ended; those that it never admitted are told to end."""
    watch.close()
    if not _have_ended(processes, _PAUSE_S):
        for process in processes:
            process.terminate()  # Those that the run has admitted end as soon as they have closed what is open.
        _have_ended(processes, _GRACE_S)
    for process in processes:
        if process.poll() is None:
            logging.warning("The %s in process %d has not ended with its run: killed.", noun, process.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    watch.end()


def _have_ended(processes: Sequence[subprocess.Popen[bytes]], timeout_s: float) -> bool:
    """Returns whether all processes end in time."""
    patience = Patience(timeout_s)
    while running := any(process.poll() is None for process in processes):
        if not patience.left_s():
            break
        time.sleep(_POLL_S)
    return not running
