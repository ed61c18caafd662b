"""Ctrl-C, Ctrl-Z, SIGTERM and SIGHUP of a launcher: noted here, passed on to the members by whoever runs them."""

import signal
import time
from types import FrameType, TracebackType

from podrl.interruption import EXIT_CODES, make_handlers

_SAME_S = 1.0  # `timeout` and some schedulers signal a process and then its group: that counts once.


class StopSignals:
    """Whether the launcher was told to stop, once or more often; a context manager that catches these signals.

    Attributes:
        first: the signal that came first; None before it.
        urgent: whether another came later, which means at once.
        paused: whether Ctrl-Z came; whoever acts on it sets it back.
    """

    def __init__(self) -> None:
        """Nothing has come yet."""
        self.first: signal.Signals | None = None
        self.urgent = False
        self.paused = False
        self._first_s = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        handlers = make_handlers(self.take) | {signal.SIGTSTP: self._take_pause}
        self._before = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]

    @property
    def exit_code(self) -> int | None:
        """Of a job that ended because of the first signal; None before it."""
        return None if self.first is None else EXIT_CODES[self.first]

    def take(self, signum: int, frame: FrameType | None = None) -> None:
        """Takes a signal to stop."""
        now_s = time.monotonic()
        if self.first is None:
            self.first, self._first_s = signal.Signals(signum), now_s
        elif signum != signal.SIGHUP and now_s - self._first_s > _SAME_S:
            self.urgent = True

    def _take_pause(self, signum: int, frame: FrameType | None) -> None:
        self.paused = True
