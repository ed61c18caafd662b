"""The command that users run, as a process of its own: to start, to watch, and to kill."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
from importlib import metadata
import json
import os
from pathlib import Path
import shutil
import socket
import subprocess
import sys
import time
from typing import Any

from tests.forked import Forked, can_fork

ROOT = Path(__file__).parent.parent
LAUNCHER = ROOT / "tools/tpu_launch.py"
# XLA's CPU backend compiles in a quarter of the time. What it computes is the same for all processes of a test.
QUICK_TO_COMPILE = "--xla_backend_optimization_level=0"
if metadata.version("jaxlib").startswith("0.10."):  # A later one ends the process, since the first flag is gone.
    # Both together compile four times as fast once more.
    QUICK_TO_COMPILE += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
LIMIT_S = 300.0  # Of whatever is waited for; far above what it takes, as a busy machine may be ten times slower.


def command(*arguments: Any, program: str | Path = LAUNCHER) -> list[str]:
    return [sys.executable, str(program), *map(str, arguments)]


def environment(xla_flags: str = QUICK_TO_COMPILE) -> dict[str, str]:
    """The tests' own environment, with one CPU device unless `xla_flags` or JAX_NUM_CPU_DEVICES say otherwise."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": xla_flags}


def launch(*arguments: Any, cwd: Path, program: str | Path = LAUNCHER) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end, which must come within `LIMIT_S`."""
    with running(*arguments, cwd=cwd, program=program) as process:
        stdout, stderr = process.communicate(timeout=LIMIT_S)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def start(args: list[str], *, cwd: Path, env: dict[str, str], stdout: int, anew: bool = False) -> Any:
    """Starts a command. The launcher is forked where that makes no difference, unless `anew` asks for a new process."""
    if not anew and args[1] == str(LAUNCHER) and can_fork(env):
        return Forked(args, cwd=cwd, env=env, stdout=stdout, stderr=subprocess.PIPE)
    return subprocess.Popen(args, cwd=cwd, env=env, stdout=stdout, stderr=subprocess.PIPE, text=True)


@contextlib.contextmanager
def running(
    *arguments: Any, cwd: Path, program: str | Path = LAUNCHER, xla_flags: str = QUICK_TO_COMPILE, anew: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """The command under way; it does not outlive the context. With `anew` it is started as a user does."""
    args, env = command(*arguments, program=program), environment(xla_flags)
    process = start(args, cwd=cwd, env=env, stdout=subprocess.PIPE, anew=anew)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def job(
    *arguments: Any,
    cwd: Path,
    processes: int,
    devices: int = 1,
    options: Mapping[int, str] | None = None,
    xla_flags: str = QUICK_TO_COMPILE,
) -> Iterator[list[subprocess.Popen[str]]]:
    """The command under way as a job of several processes on this machine; none of them outlives the context.

    Args:
        arguments: of every process.
        cwd: of every process.
        processes: their number.
        devices: virtual CPU devices of each.
        options: of the scripted environment, as JSON, by process.
        xla_flags: of every process.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    started: list[subprocess.Popen[str]] = []
    try:
        for index in range(processes):
            member = ("--coordinator", address, "--process_count", processes, "--process_index", index)
            env = {**environment(xla_flags), "JAX_NUM_CPU_DEVICES": str(devices)}
            env["SCRIPTED_OPTIONS"] = (options or {}).get(index, "{}")
            started.append(start(command(*arguments, *member), cwd=cwd, env=env, stdout=subprocess.DEVNULL))
        yield started
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.communicate()


def finish_job(started: Sequence[subprocess.Popen[str]]) -> tuple[list[int], list[str]]:
    """Waits for all processes to end by themselves; returns their exit codes and stderr."""
    errors = [finish(process) for process in started]
    return [process.returncode for process in started], errors


def signalled(number: int, *arguments: Any, workdir: Path, when: Callable[[], bool]) -> tuple[int, str]:
    """Starts a run in the new folder `workdir` and signals it once `when` holds; returns its exit code and stderr.

    A busy machine may look away until the run has ended: then it is tried anew, three times in all.
    """
    for _ in range(3):
        workdir.mkdir()
        with running(*arguments, "--workdir", workdir, cwd=workdir) as process:
            wait_for(lambda: process.poll() is not None or when())
            process.send_signal(number)
            stderr = finish(process)
        if process.returncode != 0:
            return process.returncode, stderr
        shutil.rmtree(workdir)
    raise AssertionError("The run ended three times before anybody looked.")


def finish(process: subprocess.Popen[str]) -> str:
    """Waits for the process to end by itself, within `LIMIT_S`, and returns its stderr."""
    return process.communicate(timeout=LIMIT_S)[1]


def error_lines(stderr: str) -> list[str]:
    """What the log says at the level of errors, without what follows below such a line."""
    return [line.partition("ERROR: ")[2] for line in stderr.splitlines() if "ERROR: " in line]


def read_rows(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def num_rows(workdir: Path) -> int:
    """Whole lines of `metrics.jsonl` so far; 0 before there is one."""
    path = workdir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def checkpoints(workdir: Path) -> list[int]:
    """Updates whose checkpoint is whole, oldest first."""
    folder = workdir / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.exists() else []


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    """Polls until `condition` holds, as long as `process` runs, for at most `LIMIT_S`."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.communicate()[1]
        time.sleep(0.002)
