"""Threads that succeed each other, each with environment pools of its own.

Environments are opened anew at every boundary, and some can be closed only by the thread that opened them. So the
thread that opened them closes them, and a new thread opens the next: a hang in `close` blocks no other thread.
"""

from collections.abc import Callable, Sequence
import threading
import time

from absl import logging

from podrl.envs.pools.checks import close_pool
from podrl.envs.source import Pool
from podrl.runtime.ledger import Ledger
from podrl.runtime.waiting import Patience, Stopped

CLOSING_S = 30.0  # How long environments that are replaced may take to close.
_POLL_S = 1.0

# (work to do, list to append opened pools to) -> work left for the next thread.
Work = Callable[[Sequence[int], list[Pool]], Sequence[int]]


class Succession:
    """A series of threads of one name, of which one works at a time."""

    def __init__(
        self,
        ledger: Ledger,
        work: Work,
        todo: Sequence[int],
        *,
        fail: Callable[[BaseException], None],
        should_stop: Callable[[], bool],
        closing_s: float,
    ) -> None:
        """Stores the work without starting a thread.

        Args:
            ledger: Where the time of the working thread goes; it also names the threads.
            work: Does a part of the work; may raise `Stopped`.
            todo: All of the work.
            fail: Called with any other error that `work` raises.
            should_stop: Called while a thread waits for the one before it.
            closing_s: How long a thread may take to close its pools before the next one stops waiting for it.
        """
        self._ledger, self._work, self._fail, self._should_stop = ledger, work, fail, should_stop
        self._closing_s = closing_s
        self._todo = todo
        self._started: list[threading.Thread] = []

    def start(self) -> None:
        """Starts the first thread."""
        self._begin(self._todo)

    def join(self, timeout_s: float) -> bool:
        """Waits for all threads to end, those that still close their pools included, and returns whether they did."""
        deadline_s = time.monotonic() + timeout_s
        for thread in self._started:  # A thread appends its successor before it ends.
            thread.join(max(0.0, deadline_s - time.monotonic()))
        return not self.is_alive()

    def is_alive(self) -> bool:
        """Returns whether a thread works or closes its pools."""
        return any(thread.is_alive() for thread in self._started)

    def _begin(self, todo: Sequence[int], before: threading.Event | None = None) -> None:
        thread = threading.Thread(target=self._run, args=(todo, before), name=self._ledger.name, daemon=True)
        thread.start()
        self._started.append(thread)

    def _run(self, todo: Sequence[int], before: threading.Event | None) -> None:
        """Does a part of the work once `before` is set: the thread before has closed its pools then."""
        closed = threading.Event()
        pools: list[Pool] = []
        try:
            if before is not None:
                self._await(before)
            left = self._work(todo, pools)
            if left:
                self._begin(left, closed)
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 (kept, and raised in the main thread)
            self._fail(error)
        finally:
            while pools:
                close_pool(pools.pop())
            closed.set()

    def _await(self, closed: threading.Event) -> None:
        """Waits up to `closing_s` for the thread before to close its pools."""
        patience = Patience(self._closing_s)
        with self._ledger.spend("env"):
            while not closed.wait(min(_POLL_S, left_s := patience.left_s())):
                if self._should_stop():
                    raise Stopped
                if not left_s:
                    logging.warning("%s: an environment hangs in close. The run continues.", self._ledger.name)
                    return
