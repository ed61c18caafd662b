"""How a run is told to stop: Ctrl-C by a person, SIGTERM by a scheduler that wants its machine back.

The first signal lets the update in flight end and everything be saved; the second ends the process at once, which
harms nothing: what was not saved whole does not count.
"""

from collections.abc import Iterator
import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import NoReturn

from absl import logging

INTERRUPTED = 130  # What a shell reports of a command that Ctrl-C ended.
PREEMPTED = 75  # EX_TEMPFAIL in sysexits.h: try the same command again.
_EXIT_CODES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: PREEMPTED}
_SHOW_CURSOR = "\x1b[?25h"
_SAME_S = 1.0  # `timeout` and some schedulers signal a process and then its group: that counts once.


class Interruption:
    """Whether to stop, and as what.

    Attributes:
        exit_code: of the first signal; None before it.
    """

    def __init__(self) -> None:
        """Nothing has come yet."""
        self.exit_code: int | None = None
        self._first_s = 0.0

    def is_set(self) -> bool:
        """Whether a signal has come."""
        return self.exit_code is not None

    def take(self, signum: int, frame: FrameType | None) -> None:
        """Takes a signal."""
        now_s = time.monotonic()
        if self.exit_code is None:
            self.exit_code, self._first_s = _EXIT_CODES[signal.Signals(signum)], now_s
            logging.info("Stopping after this update; %s again to stop at once.", _name(signum))
        elif now_s - self._first_s > _SAME_S:
            leave(self.exit_code)


def leave(exit_code: int) -> NoReturn:
    """Ends the process without waiting for any thread, device or file; gives the terminal its cursor back."""
    if sys.stdout.isatty():
        sys.stdout.write(_SHOW_CURSOR)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def pause(signum: int, frame: FrameType | None) -> None:
    """Stops the process until somebody lets it go on (Ctrl-Z and `fg`, a scheduler that suspends jobs)."""
    faulthandler.cancel_dump_traceback_later()  # The watchdog's; its clock would run on. The next check sets it again.
    if sys.stdout.isatty():
        sys.stdout.write(_SHOW_CURSOR)
        sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGSTOP)


@contextlib.contextmanager
def interruptible() -> Iterator[Interruption]:
    """Catches these signals as long as the context lasts; only the main thread can."""
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    handlers = dict.fromkeys(_EXIT_CODES, interruption.take) | {signal.SIGTSTP: pause}
    before = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
    try:
        yield interruption
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _name(signum: int) -> str:
    return "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
