"""Catches a launcher's stop signals and Ctrl-Z; `podrl.launch.members` passes them on to the members."""

import contextlib
import signal
from types import FrameType, TracebackType

from podrl.runtime.interruption import make_handlers, notices_to
from podrl.runtime.stop_signals import EXIT_CODES, NOTICES, Urgency


class StopSignals:
    """Whether the launcher was told to stop, once or more often; a context manager that catches these signals.

    Attributes:
        first: the first signal; None before it. SIGTERM for a notice, since members' environments may have handlers for
            notices.
        urgent: whether a later signal came, which means to stop at once.
        paused: whether Ctrl-Z came; the code that acts on it resets it.
    """

    def __init__(self) -> None:
        """Starts without signals; entering the context catches them."""
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
        """Exit code of a job that ended because of the first signal; None before it."""
        return None if self.first is None else EXIT_CODES[self.first]

    def take(self, signum: int, frame: FrameType | None = None) -> None:
        """Handles a signal to stop."""
        is_second = self._urgency.is_second(signum)
        if self.first is None:
            self.first = signal.SIGTERM if signum in NOTICES else signal.Signals(signum)
        elif is_second:
            self.urgent = True

    def _take_pause(self, signum: int, frame: FrameType | None) -> None:
        self.paused = True
