"""Keeps everything except podrl from ending the process of a run.

An environment that calls `sys.exit()`, or `os._exit(0)` as games do when their window is closed, would end the process
with the exit code of a finished run. While a run is contained, both become errors of the run. Exits that Python does
not see, such as C's `_exit`, are noticed by the launcher, if there is one: a member that ends with 0 must have said
that its run has ended.
"""

from collections.abc import Iterator
import contextlib
import faulthandler
import os
import sys
import threading
from typing import NoReturn

from absl import logging

END_VARIABLE = "PODRL_END"  # PID:FD of the launcher, and of the pipe on which a member says that its run has ended.
_exit = os._exit  # Before a run replaces it.
_PODRLS = ("MainThread", "actor ", "evaluator")  # Threads in which an error ends the run in good order.


@contextlib.contextmanager
def contained(*, by_ctrl_c: bool = False) -> Iterator[None]:
    """Turns attempts to end the process into errors of the run; a crash shows the stacks of all threads.

    Args:
        by_ctrl_c: whether a `KeyboardInterrupt` may be Ctrl-C, and passes unchanged. In a run it cannot be, since
            `podrl.runtime.interruption` catches Ctrl-C.

    Raises:
        RuntimeError: from `SystemExit`, or from a `KeyboardInterrupt` that is no Ctrl-C.
    """
    faulthandler.enable(file=sys.__stderr__ or 2)
    own = os.getpid()

    def refuse(status: int) -> NoReturn:
        if os.getpid() != own:  # A fork of this process, which ends in this way.
            _exit(status)
        if threading.current_thread().name.startswith(_PODRLS):
            raise SystemExit(f"os._exit({status})")
        logging.error("Thread %r called os._exit(%s): the run fails.", threading.current_thread().name, status)
        logging.flush()
        _exit(1)

    before, os._exit = os._exit, refuse
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as error:
        if by_ctrl_c and isinstance(error, KeyboardInterrupt):
            raise
        raise RuntimeError(f"What the run called tried to end the process: {describe_error(error)}") from error
    finally:
        os._exit = before


def describe_error(error: BaseException) -> str:
    """Describes an error, or an attempt to end the process, in a few words."""
    if not isinstance(error, SystemExit):
        return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    code = error.code
    if isinstance(code, str) and code.startswith("os._exit("):
        return code
    return f"sys.exit({'' if code is None else repr(code)})"


def record_end() -> None:
    """Tells the launcher that the run has ended, if it asked to be told."""
    launcher, _, pipe = os.environ.get(END_VARIABLE, "").partition(":")
    if launcher == str(os.getppid()):
        with contextlib.suppress(OSError):
            os.write(int(pipe), b"ended")
