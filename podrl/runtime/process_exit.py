"""Who may end the process of a run: podrl alone.

An environment that calls `sys.exit()`, or `os._exit(0)` as games do whose window was closed, would end the process with
the exit code of a finished run. For as long as a run is contained, both become errors of the run. What no Python sees,
such as C's `_exit`, is noticed by the launcher, where there is one: a member that ends with 0 has to have said that its
run has ended.
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
_exit = os._exit  # The real one.
_PODRLS = ("MainThread", "actor ", "evaluator")  # Threads in which an error ends the run in good order.


@contextlib.contextmanager
def contained(*, by_ctrl_c: bool = False) -> Iterator[None]:
    """Turns what would end the process into errors of the run; a crash shows the stacks of all threads.

    Args:
        by_ctrl_c: whether a `KeyboardInterrupt` may be Ctrl-C, and is left as it is. In a run it is not, as
            `podrl.runtime.interruption` catches that.

    Raises:
        RuntimeError: from `SystemExit`, or from a `KeyboardInterrupt` that is no Ctrl-C.
    """
    faulthandler.enable(file=sys.__stderr__ or 2)
    own = os.getpid()

    def refuse(status: int) -> NoReturn:
        if os.getpid() != own:  # A fork, which ends like this.
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
    """What ended or interrupted something, in a few words."""
    if not isinstance(error, SystemExit):
        return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    code = error.code
    if isinstance(code, str) and code.startswith("os._exit("):
        return code
    return f"sys.exit({'' if code is None else repr(code)})"


def record_end() -> None:
    """Tells the launcher, if one asked for it, that the run has ended."""
    launcher, _, pipe = os.environ.get(END_VARIABLE, "").partition(":")
    if launcher == str(os.getppid()):
        with contextlib.suppress(OSError):
            os.write(int(pipe), b"ended")
