"""How a run is told to stop: Ctrl-C by a person, SIGTERM by a scheduler, SIGHUP by a closing terminal.

After the first signal the current update ends and everything is saved. The second signal ends the process at once,
which harms nothing: what was not saved completely does not count. A SIGHUP that is ignored at the start, as under
`nohup`, stays ignored, and a second one does not end the process: a terminal and its shell may both send one. The
handlers stay installed as long as the run lasts, whatever its environments register
(`podrl.runtime.signal_handlers`).

SIGUSR1, SIGUSR2 and SIGXCPU are notices: the run saves and ends, and no signal that comes with or after them ends it
sooner. A handler that is registered for them, before the run or during it, stays.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import faulthandler
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import NoReturn

from absl import logging

from podrl.runtime.container_limits import explain_limit
from podrl.runtime.process_exit import record_end
from podrl.runtime.signal_handlers import Handler, KeptHandlers
from podrl.runtime.stop_signals import EXIT_CODES, NOTICES, Urgency, stands

_SHOW_CURSOR = "\x1b[?25h"
_exit = os._exit  # Before a run replaces it, see `podrl.runtime.process_exit`.
# The terminal may be closed, and a signal may interrupt the main thread while it writes, which a stream does not allow.
_UNWRITABLE = (OSError, ValueError, RuntimeError)
_RENEWED_S = 1.0  # Seconds between checks of the handlers.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stop:
    """Whether a run is to stop, as its loop asks.

    Attributes:
        code: () -> the exit code to end with before the next update, the same on every process; 0 to train on.
        now: () -> whether this process was told to stop, which ends waits that other processes have no part in.
        alone: Whether the job has one process, which may stop before an update that it has begun to wait for. Of
            several, the others would wait for it in a reduction.
    """

    code: Callable[[], int] = lambda: 0
    now: Callable[[], bool] = lambda: False
    alone: bool = True

    def at_once(self) -> bool:
        """Returns whether to stop without the rollouts that are waited for."""
        return self.alone and self.now()


NEVER = Stop()


class Interruption:
    """Whether a run has been told to stop, and its exit code.

    Attributes:
        exit_code: exit code of the first signal; None before it.
    """

    def __init__(self, *, ends_process: bool = True) -> None:
        """Installs no handlers yet.

        Args:
            ends_process: Whether a second signal ends the process. Otherwise it raises `KeyboardInterrupt`.
        """
        self.exit_code: int | None = None
        self._ends_process = ends_process
        self._urgency = Urgency()
        self._renewed_s = 0.0
        self._kept: KeptHandlers | None = None

    def is_set(self) -> bool:
        """Returns whether a signal has arrived."""
        return self.exit_code is not None

    def code(self) -> int:
        """Returns the exit code of the first signal, 0 before it; in the main thread it also renews the handlers."""
        if self._kept is not None and time.monotonic() - self._renewed_s > _RENEWED_S:
            self._kept.renew()
            self._renewed_s = time.monotonic()
        return self.exit_code or 0

    def catch(self, handlers: dict[signal.Signals, Handler]) -> KeptHandlers:
        """Returns a context that installs the handlers, which `code` then renews."""
        self._kept = KeptHandlers(handlers)
        return self._kept

    def take(self, signum: int, frame: FrameType | None) -> None:
        """Handles a signal."""
        if signum == signal.SIGINT and (limit := explain_limit()):
            with contextlib.suppress(RuntimeError):
                logging.error("The run failed: %s", limit)
            leave(1)
        is_second = self._urgency.is_second(signum)
        if self.exit_code is None:
            self.exit_code = EXIT_CODES[signal.Signals(signum)]
            with contextlib.suppress(RuntimeError):
                logging.info("Stopping after this update; %s to stop at once.", _to_hurry(signum))
        elif is_second and self._ends_process:
            leave(self.exit_code)
        elif is_second:
            raise KeyboardInterrupt


def leave(exit_code: int) -> NoReturn:
    """Ends the process without waiting for any thread, device or file; restores the terminal's cursor."""
    with contextlib.suppress(*_UNWRITABLE):
        if sys.stdout.isatty():
            sys.stdout.write(_SHOW_CURSOR)
        sys.stdout.flush()
    with contextlib.suppress(*_UNWRITABLE):
        sys.stderr.flush()
    record_end()
    _exit(exit_code)


def pause(signum: int, frame: FrameType | None) -> None:
    """Stops the process until it is told to continue (Ctrl-Z and `fg`, a scheduler that suspends jobs)."""
    faulthandler.cancel_dump_traceback_later()  # The watchdog's clock would run on; its next check sets it again.
    with contextlib.suppress(*_UNWRITABLE):
        if sys.stdout.isatty():
            sys.stdout.write(_SHOW_CURSOR)
            sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGSTOP)


@contextlib.contextmanager
def interruptible(*, ends_process: bool = True) -> Iterator[Interruption]:
    """Catches these signals as long as the context lasts; works in the main thread only.

    Args:
        ends_process: Whether a second signal ends the process, see `Interruption`.
    """
    interruption = Interruption(ends_process=ends_process)
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    kept = make_handlers(interruption.take) | {signal.SIGTSTP: pause}
    with notices_to(interruption.take), interruption.catch(kept):
        yield interruption


def make_handlers(take: Handler) -> dict[signal.Signals, Handler]:
    """Maps all stop signals except notices to `take`, except that an ignored SIGHUP (`nohup`) stays ignored."""
    hangup = signal.SIG_IGN if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else take
    return {signum: take for signum in EXIT_CODES if signum not in NOTICES} | {signal.SIGHUP: hangup}


@contextlib.contextmanager
def notices_to(take: Handler) -> Iterator[None]:
    """Sets `take` as the handler of schedulers' notices, unless the user has set one or sets one later."""
    before = {signum: signal.signal(signum, take) for signum in NOTICES if stands(signum)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            if signal.getsignal(signum) == take:
                signal.signal(signum, handler)


def _to_hurry(signum: int) -> str:
    """Returns how to end the run at once after this signal."""
    if signum in NOTICES:
        return "Ctrl-C or SIGTERM twice"
    if signum == signal.SIGHUP:
        return "Ctrl-C or SIGTERM"
    return "Ctrl-C again" if signum == signal.SIGINT else f"{signal.Signals(signum).name} again"
