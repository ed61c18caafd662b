"""What a launcher's new process does before anything else."""

from collections.abc import Callable, Sequence
import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # From Linux's prctl.h.


def preparation(cores: Sequence[int]) -> Callable[[], None]:
    """Returns a function for a new process that ties its life to the launcher's and binds it to its cores."""
    launcher = os.getpid()
    prctl = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform.startswith("linux") else None

    def prepare() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != launcher:  # The launcher ended before this took effect.
                os._exit(1)
        if cores:
            os.sched_setaffinity(0, cores)

    return prepare
