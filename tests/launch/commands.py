"""Starts the stand-in of tests/launch/stand_in.py, and looks at what it leaves."""

from collections.abc import Iterator
import contextlib
import os
from pathlib import Path
import signal
import subprocess
import time

from tests.processes import LIMIT_S, launch, running

STAND_IN = str(Path(__file__).parent / "stand_in.py")
WAIT = "import time; time.sleep(600)"


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs the stand-in to its end; whatever it leaves running is an error."""
    with no_survivors(cwd):
        return launch(*arguments, cwd=cwd, program=STAND_IN)


@contextlib.contextmanager
def under_way(*arguments: object, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    with no_survivors(cwd), running(*arguments, cwd=cwd, program=STAND_IN) as process:
        yield process


@contextlib.contextmanager
def no_survivors(cwd: Path) -> Iterator[None]:
    """What is started within is gone soon after it."""
    try:
        yield
    finally:
        wait_until(lambda: not survivors(cwd), "members survive their launcher")


def survivors(cwd: Path) -> list[int]:
    """Processes whose working directory is `cwd`; zombies have none."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and os.readlink(entry / "cwd") == str(cwd):
                found.append(int(entry.name))
    return found


def wait_until(condition, text: str, process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, text
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.01)


def stop(process: subprocess.Popen[str], signum: signal.Signals) -> tuple[str, str]:
    """Sends a signal and waits for the end."""
    process.send_signal(signum)
    return process.communicate(timeout=LIMIT_S)
