"""Ends a run in which a thread makes no progress, and reports which.

Every wait of podrl has a timeout and names what it waits for. No timeout covers a thread that is stuck inside a call
to other code: an emulator, the runtime, a file system. The watchdog does: each thread counts its steps, and when a
counter stands still for too long, the watchdog logs what every thread does and waits for, with the stacks of all, and
ends the process. Nothing can be saved then: the run resumes from its last checkpoint.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import faulthandler
import sys
import threading
import time
import traceback
from types import TracebackType

from absl import logging

from podrl.runtime.interruption import leave
from podrl.runtime.ledger import Ledger

STALLED = 124  # The exit code of `timeout`: something took too long.
_NAME = "watchdog"
# A compiler works; these waits have timeouts, except that for the learner, which is watched itself.
_NOT_COUNTED = ("compile", "wait_params", "wait_rollouts", "wait_data", "wait_learner", "evaluate")
_CHECKS = 20  # Checks within the limit.
_GRACE = 1.5  # Times the limit, after which a process that cannot even run the watchdog is ended from outside Python.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watched:
    """A watched thread.

    Attributes:
        ledger: counts the thread's steps.
        doing: describes what it does and waits for: `actor 0 is at step 3 of 20 of rollout 12`.
        is_alive: whether it still runs; a thread that has ended is not watched.
    """

    ledger: Ledger
    doing: Callable[[], str]
    is_alive: Callable[[], bool]


class Watchdog:
    """Watches threads as long as the context lasts; outside of it, it can only report what they do."""

    def __init__(self, limit_s: float, *, on_stall: Callable[[], None] = lambda: None):
        """Prepares the watchdog; `watch` adds threads.

        Args:
            limit_s: seconds that a thread may go without progress, not counting compilation and waits with timeouts of
                their own.
            on_stall: called before the process ends, to restore the terminal.
        """
        self._limit_s = limit_s
        self._on_stall = on_stall
        self._watched: dict[Ledger, Watched] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=_NAME, daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def watch(self, thread: Watched) -> None:
        """Watches this thread too from now on, instead of an earlier one with the same ledger."""
        self._watched = {**self._watched, thread.ledger: thread}

    @contextlib.contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Watches the calling thread as long as the context lasts, which may not be longer than the limit.

        Args:
            name: what the thread does, for messages: `env.id='x' in its constructor`.
        """
        ledger, ended = Ledger(name), threading.Event()
        text = f"{threading.current_thread().name} waits for {name}"
        self.watch(Watched(ledger=ledger, doing=lambda: text, is_alive=lambda: not ended.is_set()))
        try:
            yield
        finally:
            ended.set()

    def report(self, *, but: Ledger | None = None) -> str:
        """Reports what each thread does and waits for, and the stacks of all threads except the caller's.

        Args:
            but: the caller's own ledger, which is left out.
        """
        watched = [thread for ledger, thread in self._watched.items() if ledger is not but and thread.is_alive()]
        doing = [f"  {thread.doing()}" for thread in watched]
        return "\n".join([*doing, "Stacks, the newest call last:", *_stacks()])

    def _run(self) -> None:
        try:
            self._keep_looking()
        except Exception:  # noqa: BLE001 (a thread of its own: no other code would see the error)
            logging.exception("The watchdog failed; the run continues without it.")
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _keep_looking(self) -> None:
        interval_s = self._limit_s / _CHECKS
        still: dict[Ledger, tuple[int, float]] = {}  # Changes, and seconds without one.
        before_s = time.monotonic()
        while not self._ended.wait(interval_s):
            # Ends the process from a C thread if this thread never returns: another thread may hold the GIL.
            faulthandler.dump_traceback_later(self._limit_s * _GRACE, exit=True, file=sys.__stderr__ or 2)
            now_s = time.monotonic()
            # The time that a process was stopped, or a machine slept, does not count.
            passed_s, before_s = min(now_s - before_s, 2 * interval_s), now_s
            for ledger, thread in self._watched.items():
                changes, idle_s = still.get(ledger, (-1, 0.0))
                counts = changes == ledger.changes and ledger.doing()[0] not in _NOT_COUNTED and thread.is_alive()
                still[ledger] = (ledger.changes, idle_s + passed_s if counts else 0.0)
                if still[ledger][1] >= self._limit_s:
                    self._end(thread)

    def _end(self, stuck: Watched) -> None:
        self._on_stall()
        logging.error(
            "The run stands still: %s has done nothing for %.0f s. If that can be, raise watchdog_s.\n%s",
            stuck.ledger.name,
            self._limit_s,
            self.report(),
        )
        logging.flush()
        leave(STALLED)


def _stacks() -> list[str]:
    """Returns the stack of every Python thread, under its name, except the caller's and the watchdog's."""
    threads = {thread.ident: thread.name for thread in threading.enumerate() if thread.name != _NAME}
    return [
        "".join([f"{threads[ident]}:\n", *_without_start(traceback.format_stack(frame))]).rstrip()
        for ident, frame in sys._current_frames().items()
        if ident in threads and ident != threading.get_ident()
    ]


def _without_start(calls: Sequence[str]) -> Sequence[str]:
    """Returns a stack without the calls by which Python starts each thread."""
    return [call for call in calls if "in _bootstrap" not in call]
