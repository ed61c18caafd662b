"""What a new process of a launcher does before anything else."""

from collections.abc import Callable, Sequence
import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # From Linux's prctl.h.


def preparation(cores: Sequence[int]) -> Callable[[], None]:
    """What a new process does first: it ties its life to the launcher's, and takes its cores."""
    launcher = os.getpid()
    prctl = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform.startswith("linux") else None

    def prepare() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != launcher:  # It was gone before this took effect.
                os._exit(1)
        if cores:
            os.sched_setaffinity(0, cores)

    return prepare
