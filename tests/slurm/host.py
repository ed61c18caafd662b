"""Runs a command, and ends together with all that it started, however far that detached itself.

A SLURM node's processes leave their parent and their session, so that no signal to a group reaches them all; a test
that loses track of them leaves them to the next one. Here they stay descendants of one process, which ends them when it
is told to (SIGTERM), when the command has ended, or when the test itself is gone. It ends them as a power cut does.
"""

from collections.abc import Iterator, Sequence
import ctypes
import os
from pathlib import Path
import signal
import sys

# Linux, <sys/prctl.h>.
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def main(command: Sequence[str]) -> int:
    """Runs `command` until it or this process is to end; returns its exit code, or 1 if it did not end by itself."""
    libc = ctypes.CDLL(None, use_errno=True)
    signals = {signal.SIGTERM, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    for option, value in ((_PR_SET_PDEATHSIG, signal.SIGTERM), (_PR_SET_CHILD_SUBREAPER, 1)):
        if libc.prctl(option, value, 0, 0, 0):
            raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")
    first = os.posix_spawnp(command[0], command, os.environ, setsigmask=())
    code = None
    while code is None and signal.sigwait(signals) == signal.SIGCHLD:
        code = dict(_ended()).get(first)
    _end_all()
    return 1 if code is None else code


def _ended() -> Iterator[tuple[int, int]]:
    """Children that have ended, with their exit codes."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        yield pid, os.waitstatus_to_exitcode(status)


def _end_all() -> None:
    """Kills the children until there are none: those of a child become children of this process when it dies."""
    while True:
        for pid in _children():
            os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parent = text.rpartition(")")[2].split()[1]  # After the name, which may hold anything, and the state.
        if int(parent) == os.getpid():
            found.append(int(path.parent.name))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
