"""Signals to stop, and Ctrl-Z, of a launcher: noted here, passed on to the members by `podrl.launch.members`."""

import contextlib
import signal
from types import FrameType, TracebackType

from podrl.runtime.interruption import make_handlers, notices_to
from podrl.runtime.stop_signals import EXIT_CODES, NOTICES, Urgency


class StopSignals:
    """Whether the launcher was told to stop, once or more often; a context manager that catches these signals.

    Attributes:
        first: the signal that came first; None before it. SIGTERM for a notice, as members' environments may have
            taken that for themselves.
        urgent: whether another came later, which means at once.
        paused: whether Ctrl-Z came; whoever acts on it sets it back.
    """

    def __init__(self) -> None:
        """Nothing has come yet."""
        self.first: signal.Signals | None = None
        self.urgent = False
        self.paused = False
        self._urgency = Urgency()
        self._before: dict[int, object] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "StopSignals":
        handlers = make_handlers(self.take) | {signal.SIGTSTP: self._take_pause}
        self._before = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
        self._stack.enter_context(notices_to(self.take))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        for signum, handler in self._before.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]

    @property
    def exit_code(self) -> int | None:
        """Of a job that ended because of the first signal; None before it."""
        return None if self.first is None else EXIT_CODES[self.first]

    def take(self, signum: int, frame: FrameType | None = None) -> None:
        """Takes a signal to stop."""
        is_second = self._urgency.is_second(signum)
        if self.first is None:
            self.first = signal.SIGTERM if signum in NOTICES else signal.Signals(signum)
        elif is_second:
            self.urgent = True

    def _take_pause(self, signum: int, frame: FrameType | None) -> None:
        self.paused = True
