"""Starts a run's environment workers, or its actor workers, on this machine, beside the processes that train.

They meet at a Unix socket in a folder that only this user can enter, and the file with the job's secret lies beside it.
They print their own lines, get none of the user's signals, and end with the run; the kernel kills them when the
launcher ends.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import importlib.util
import os
from pathlib import Path
import signal
import subprocess
import sys
import tempfile
import threading
import time

from absl import logging

from podrl.config.config import check
from podrl.config.remote import NO_CERTIFICATES
from podrl.config.user_modules import ROOT
from podrl.experience.remote.endpoint import LONGEST_SOCKET, UNIX, address_of_process
from podrl.launch.job_end import describe_end
from podrl.launch.members import Member
from podrl.launch.preparation import preparation
from podrl.runtime.job.secret import FILE_VARIABLE, VARIABLE, make_secret
from podrl.runtime.waiting import Patience

WORKER_PROGRAM = ROOT / "tools/env_worker.py"
ENV_WORKERS, ACTOR_WORKERS = "env_workers", "actor_workers"  # Flags, and config keys.
_NOUNS = {ENV_WORKERS: "environment worker", ACTOR_WORKERS: "actor worker"}
WORKER_PROGRAMS = {ENV_WORKERS: WORKER_PROGRAM, ACTOR_WORKERS: ROOT / "tools/actor_worker.py"}
_PAUSE_S, _GRACE_S = 1.0, 10.0  # Until those that no run has admitted are told to end, and until all are killed.
_POLL_S = 0.1


@contextlib.contextmanager
def env_workers_beside(
    members: Sequence[Member], count: int | None, *, flag: str = ENV_WORKERS, program: Path | None = None
) -> Iterator[list[Member]]:
    """Starts workers, and yields the members with what they need to find each other.

    Args:
        members: the processes that train.
        count: number of workers; None for none.
        flag: The flag of their kind, `ENV_WORKERS` or `ACTOR_WORKERS`.
        program: The program that each of them runs; by default that of their kind.

    Raises:
        ConfigError: if gRPC is missing, the command line gives what is chosen here, or no socket can be made.
    """
    if count is None:
        yield list(members)
        return
    has_grpc = importlib.util.find_spec("grpc") is not None
    check(has_grpc, f"--{flag} needs gRPC, which is not installed: pip install -e '.[workers]'.")
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
        ended = threading.Event()
        stack.callback(_end, processes, ended, _NOUNS[flag])
        for command in worker_commands(address, count, len(members), program or WORKER_PROGRAMS[flag]):
            processes.append(_start([*command, "--quiet"], {FILE_VARIABLE: str(secret)}))
        threading.Thread(target=_watch, args=(processes, ended, _NOUNS[flag]), daemon=True).start()
        yield with_theirs


def with_workers(
    member: Member, address: str, count: int, environ: Mapping[str, str], *, flag: str = ENV_WORKERS
) -> Member:
    """Returns a process that trains, told that its workers come to `address`, within the host.

    Raises:
        ConfigError: if its command line says something else.
    """
    for given in (argument.partition("=")[0] for argument in member.command):
        check(
            given not in (f"--config.remote.{flag}", "--config.remote.address"),
            f"{given} is chosen by --{flag}, which starts {_NOUNS[flag]}s on this machine. Drop one of them; "
            f"docs/workers.md says how to start {_NOUNS[flag]}s by hand.",
        )
    settings = (
        f"--config.remote.certificates={NO_CERTIFICATES}",
        f"--config.remote.{flag}={count}",
        f"--config.remote.address={address}",
    )
    return dataclasses.replace(member, command=(*member.command, *settings), environ={**member.environ, **environ})


def worker_commands(address: str, count: int, num_processes: int, program: Path = WORKER_PROGRAM) -> list[list[str]]:
    """Returns the command of each worker; each process that trains has every `num_processes`-th of them."""
    places = [address_of_process(address, index % num_processes, num_processes) for index in range(count)]
    return [[sys.executable, str(program), "--connect", place] for place in places]


def _start(command: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=preparation(()),
    )


def _watch(processes: Sequence[subprocess.Popen[bytes]], ended: threading.Event, noun: str) -> None:
    """Logs workers that end before their run does: the learner does not know those that never came to it."""
    told: set[int] = set()
    while not ended.wait(_POLL_S):
        for process in processes:
            if (code := process.poll()) and process.pid not in told:
                told.add(process.pid)
                logging.error("%s.", describe_end(f"The {noun} in process {process.pid}", code))


def _end(processes: Sequence[subprocess.Popen[bytes]], ended: threading.Event, noun: str) -> None:
    """Waits a moment for the workers, whose run has ended; those that it never admitted are told to end."""
    ended.set()
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


def _have_ended(processes: Sequence[subprocess.Popen[bytes]], timeout_s: float) -> bool:
    """Returns whether all processes end in time."""
    patience = Patience(timeout_s)
    while running := any(process.poll() is None for process in processes):
        if not patience.left_s():
            break
        time.sleep(_POLL_S)
    return not running
