"""Signal handlers that stay installed, whatever environments and libraries register during a run.

An environment that takes SIGINT and SIGTERM for itself would leave only `kill -9`. Python has one handler for each
signal, and the last caller sets it. So while these handlers are kept, `signal.signal` leaves them in place and logs
the caller; `renew` restores those that were changed in other ways.
"""

from collections.abc import Mapping
import os
import signal
import sys
import sysconfig
import threading
from types import FrameType, TracebackType
from typing import Any

from absl import logging

Handler = Any  # A function of the signal's number and the frame, or SIG_IGN.
_LIBRARY = sysconfig.get_path("stdlib") + os.sep
_INSTALLED = os.sep + "site-packages" + os.sep


class KeptHandlers:
    """Keeps signal handlers installed as long as the context lasts; enter it in the main thread."""

    def __init__(self, handlers: Mapping[signal.Signals, Handler]) -> None:
        """Prepares the handlers, which entering the context installs.

        Args:
            handlers: handlers by signal.
        """
        self._handlers = dict(handlers)
        self._before: dict[signal.Signals, Handler] = {}
        self._install = signal.signal
        self._told: set[tuple[signal.Signals, str]] = set()

    def __enter__(self) -> "KeptHandlers":
        self._install = signal.signal
        self._before = {signum: self._install(signum, handler) for signum, handler in self._handlers.items()}
        signal.signal = self._signal  # type: ignore[assignment]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal = self._install
        for signum, handler in self._before.items():
            self._install(signum, signal.SIG_DFL if handler is None else handler)

    def renew(self) -> None:
        """Restores handlers that were changed past `signal.signal`, and unblocks the signals; main thread only."""
        if threading.current_thread() is not threading.main_thread():
            return
        for signum, handler in self._handlers.items():
            found = signal.getsignal(signum)
            if found != handler:
                self._tell(signum, _origin(found))
            self._install(signum, handler)  # In any case: Python does not see what a C library has installed.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._handlers)

    def _signal(self, signum: int, handler: Handler) -> Handler:
        """Replaces `signal.signal`."""
        kept = self._handlers.get(signum)  # type: ignore[call-overload]
        if kept is None:
            return self._install(signum, handler)
        if handler != kept:
            self._tell(signal.Signals(signum), _caller(sys._getframe(1)))
        return kept

    def _tell(self, signum: signal.Signals, who: str) -> None:
        if (signum, who) not in self._told:  # Many environments may ask.
            self._told.add((signum, who))
            logging.warning("%s asked for %s, which podrl keeps: the run could not be stopped.", who, signum.name)


def _caller(frame: FrameType | None) -> str:
    """Returns the file and line of the nearest call from outside Python's own library."""
    nearest = frame
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_LIBRARY) or _INSTALLED in file:
            return f"{file}, line {frame.f_lineno}"
        frame = frame.f_back
    return "Python" if nearest is None else f"{nearest.f_code.co_filename}, line {nearest.f_lineno}"


def _origin(handler: Handler) -> str:
    """Returns the file and line of a handler's code, as far as it has any."""
    code = getattr(handler, "__code__", None)
    if code is not None:
        return f"{code.co_filename}, line {code.co_firstlineno}"
    return "A library in C" if handler is None else f"Code that set it to {handler}"
