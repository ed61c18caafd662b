"""Signal handlers that stay, whatever environments and libraries register while a run is under way.

An environment that takes SIGINT and SIGTERM for itself would leave only `kill -9`. Python has one handler for each
signal, and gives it to the last caller. So for as long as these handlers are kept, `signal.signal` leaves them where
they are and says who asked; what gets past it is put right by `renew`.
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
    """A context manager; to be entered in the main thread."""

    def __init__(self, handlers: Mapping[signal.Signals, Handler]) -> None:
        """Installs nothing yet.

        Args:
            handlers: by signal.
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
        """Puts back what was changed past `signal.signal`, and unblocks the signals; does nothing in other threads."""
        if threading.current_thread() is not threading.main_thread():
            return
        for signum, handler in self._handlers.items():
            found = signal.getsignal(signum)
            if found != handler:
                self._tell(signum, _origin(found))
            self._install(signum, handler)  # In any case: Python does not see what a library in C has installed.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._handlers)

    def _signal(self, signum: int, handler: Handler) -> Handler:
        """In place of `signal.signal`."""
        kept = self._handlers.get(signum)  # type: ignore[call-overload]
        if kept is None:
            return self._install(signum, handler)
        if handler != kept:
            self._tell(signal.Signals(signum), _caller(sys._getframe(1)))
        return kept

    def _tell(self, signum: signal.Signals, who: str) -> None:
        if (signum, who) not in self._told:  # As many environments there may be.
            self._told.add((signum, who))
            logging.warning("%s asked for %s, which podrl keeps: the run could not be stopped.", who, signum.name)


def _caller(frame: FrameType | None) -> str:
    """The file and line of the nearest call from outside of Python's own library."""
    nearest = frame
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_LIBRARY) or _INSTALLED in file:
            return f"{file}, line {frame.f_lineno}"
        frame = frame.f_back
    return "Python" if nearest is None else f"{nearest.f_code.co_filename}, line {nearest.f_lineno}"


def _origin(handler: Handler) -> str:
    """Where a handler comes from: its file and line, as far as it has one."""
    code = getattr(handler, "__code__", None)
    if code is not None:
        return f"{code.co_filename}, line {code.co_firstlineno}"
    return "A library in C" if handler is None else f"Whoever set it to {handler}"
