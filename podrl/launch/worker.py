"""Runs on each worker of a TPU slice: a command that outlives the connection through which it was started.

    python podrl/launch/worker.py run ID COMMAND...   starts the command, or finds it running, and follows its output
    python podrl/launch/worker.py signal ID SIGNAL    passes a signal on to it

A follower may lose its connection and connect again; the exit code is kept in a file. Exit code 1 is reported as 101,
because gcloud ends with 1 if gcloud itself fails. Needs nothing but Python.
"""

import contextlib
import fcntl
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

FAILED = 101
_STOPPING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
_POLL_S = 0.2
_PATIENCE_S = 60.0  # Time for an earlier run to end after SIGTERM.
_REPEATED_BYTES = 2000  # Output that is repeated to a follower that connects again.


def _folder_of_runs() -> Path:
    """Returns the folder, which is looked up late: a launcher that imports this module may have no home."""
    return Path.home() / ".podrl" / "runs"


def main(argv: list[str]) -> int:
    """Does what the arguments say and returns the command's exit code."""
    action, identity, *rest = argv[1:]
    folder = _folder_of_runs() / identity
    folder.mkdir(parents=True, exist_ok=True)
    if action == "signal":
        _write(folder / "signal", rest[0])
        _signal(folder, signal.Signals[rest[0]])
        return 0
    if action == "supervise":
        return _supervise(folder, rest)
    with (_folder_of_runs() / ".lock").open("w") as lock:  # Two connections may come at the same time.
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = (folder / "log").exists()
        if not known:
            _end_others(folder)
            _start(folder, rest)
    return _follow(folder, skip=known)


def _start(folder: Path, command: list[str]) -> None:
    """Starts the supervisor and waits until it can be told from a dead one."""
    (folder / "log").touch()
    with (folder / "log").open("ab") as log:
        supervisor = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), "supervise", folder.name, *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    while not (folder / "supervisor").exists():
        if supervisor.poll() is not None:
            _write(folder / "code", "1")
            return
        time.sleep(_POLL_S)


def _supervise(folder: Path, command: list[str]) -> int:
    """Runs the command and records its exit code; survives the end of the connection."""
    for signum in _STOPPING:  # The command is signalled separately.
        signal.signal(signum, signal.SIG_IGN)
    _write(folder / "supervisor", str(os.getpid()))
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=_heed_signals)
    _write(folder / "pid", str(process.pid))
    if (folder / "signal").exists():  # The signal came before the command ran.
        _signal(folder, signal.Signals[(folder / "signal").read_text()])
    code = process.wait()
    _write(folder / "code", str(128 - code if code < 0 else code))
    return 0


def _heed_signals() -> None:
    for signum in _STOPPING:
        signal.signal(signum, signal.SIG_DFL)


def _follow(folder: Path, *, skip: bool) -> int:
    """Copies the output until the command has ended; returns its exit code."""
    with (folder / "log").open("rb") as log:
        if skip:
            log.seek(max(0, (folder / "log").stat().st_size - _REPEATED_BYTES))
            log.readline()
        while True:
            ended = (folder / "code").exists()
            gone = not ended and _is_gone(folder)
            sys.stdout.buffer.write(log.read())
            sys.stdout.buffer.flush()
            if ended:
                code = int((folder / "code").read_text())
                return FAILED if code == 1 else code
            if gone and not (folder / "code").exists():
                sys.stdout.write("The run ended without an exit code: was this machine restarted?\n")
                return FAILED
            time.sleep(_POLL_S)


def _is_gone(folder: Path) -> bool:
    """Returns whether no supervisor is left to record an exit code; its number may be another process's by now."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((folder / "supervisor").read_text())
        return b"supervise" not in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return True


def _end_others(folder: Path) -> None:
    """Ends earlier runs, which hold the chips: SIGTERM, so that they save, and then SIGKILL."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _PATIENCE_S
        others = [other for other in _folder_of_runs().iterdir() if other.is_dir() and other != folder and _runs(other)]
        for other in others:
            sys.stdout.write(f"Ending an earlier run, {other.name}, by {signum.name}.\n")
            sys.stdout.flush()
            _signal(other, signum)
        while any(_runs(other) for other in others) and time.monotonic() < deadline:
            time.sleep(_POLL_S)


def _runs(folder: Path) -> bool:
    return not (folder / "code").exists() and not _is_gone(folder)


def _signal(folder: Path, signum: signal.Signals) -> None:
    """Signals the command's processes, if they run."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
        if _runs(folder):
            os.killpg(int((folder / "pid").read_text()), signum)


def _write(path: Path, text: str) -> None:
    """Writes a file completely or not at all."""
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
