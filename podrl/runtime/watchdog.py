"""Ends a run in which something stands still, and says what.

Every wait of podrl has a time limit and names whom it waits for. What no limit covers is a thread that is stuck inside
a call of somebody else's: an emulator, the runtime, a file system. The watchdog is for these: each thread counts what
it does, and when one of these counters stands still for too long, the watchdog logs what every thread does, and for
whom it waits, with the stacks of all, and ends the process. There is nothing to save then, and nobody to do it: the
run goes on from its last checkpoint.
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

STALLED = 124  # What `timeout` exits with: something took too long.
_NAME = "watchdog"
_NOT_COUNTED = ("compile", "wait_params", "wait_rollouts", "evaluate")  # A compiler works; waits have their own limits.
_CHECKS = 20  # How often a limit is looked at before it is over.
_GRACE = 1.5  # times the limit, until a process that cannot even run the watchdog is ended from outside of Python.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watched:
    """A thread under watch.

    Attributes:
        ledger: counts what it does.
        doing: what it does now and for whom it waits, for people: `actor 0 is at step 3 of 20 of rollout 12`.
        is_alive: whether it still runs; one that has ended is not missed here.
    """

    ledger: Ledger
    doing: Callable[[], str]
    is_alive: Callable[[], bool]


class Watchdog:
    """Watches threads as long as the context lasts; outside of it, it can only tell what they do."""

    def __init__(self, limit_s: float, *, on_stall: Callable[[], None] = lambda: None):
        """Watches nobody yet.

        Args:
            limit_s: seconds that a thread may stand still, compilation and waits with limits of their own not counted.
            on_stall: called before the process ends, to give the terminal back.
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
        """From now on this one too, in place of one with the same ledger."""
        self._watched = {**self._watched, thread.ledger: thread}

    @contextlib.contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Watches the calling thread for as long as the context lasts, which may not be longer than the limit.

        Args:
            name: of what it does, for messages: `env.id='x' in its constructor`.
        """
        ledger, ended = Ledger(name), threading.Event()
        text = f"{threading.current_thread().name} waits for {name}"
        self.watch(Watched(ledger=ledger, doing=lambda: text, is_alive=lambda: not ended.is_set()))
        try:
            yield
        finally:
            ended.set()

    def report(self, *, but: Ledger | None = None) -> str:
        """What each thread does and for whom it waits, and the stacks of all but the caller's.

        Args:
            but: the caller's own.
        """
        watched = [thread for ledger, thread in self._watched.items() if ledger is not but and thread.is_alive()]
        doing = [f"  {thread.doing()}" for thread in watched]
        return "\n".join([*doing, "Stacks, the newest call last:", *_stacks()])

    def _run(self) -> None:
        try:
            self._keep_looking()
        except Exception:  # noqa: BLE001 (a thread of its own: nobody else would hear of it)
            logging.exception("The watchdog failed; the run goes on without.")
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _keep_looking(self) -> None:
        interval_s = self._limit_s / _CHECKS
        still: dict[Ledger, tuple[int, float]] = {}  # changes, and seconds without one
        before_s = time.monotonic()
        while not self._ended.wait(interval_s):
            # Ends the process from a thread of C's, should this one not come back: somebody holds the GIL for ever.
            faulthandler.dump_traceback_later(self._limit_s * _GRACE, exit=True, file=sys.__stderr__ or 2)
            now_s = time.monotonic()
            # A process that was stopped, or a machine that slept, did not stand still all that time.
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
    """The stack of every Python thread but the caller's and the watchdog's, under its name."""
    threads = {thread.ident: thread.name for thread in threading.enumerate() if thread.name != _NAME}
    return [
        "".join([f"{threads[ident]}:\n", *_without_start(traceback.format_stack(frame))]).rstrip()
        for ident, frame in sys._current_frames().items()
        if ident in threads and ident != threading.get_ident()
    ]


def _without_start(calls: Sequence[str]) -> Sequence[str]:
    """A stack without the calls by which Python starts each thread."""
    return [call for call in calls if "in _bootstrap" not in call]
