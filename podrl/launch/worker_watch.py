"""Watches workers that the launcher has started: names those that end before their run, and starts others instead."""

from collections.abc import Callable, Sequence
import subprocess
import threading
import time

from absl import logging

from podrl.config.config import MISTAKE
from podrl.experience.remote.endpoint import Endpoint
from podrl.launch.job_end import describe_end

_PAUSE_S = 1.0  # Before a worker is started again; a run that has ended listens no more by then.
_LONGEST_PAUSE_S = 32.0  # For one that ends again and again.
_POLL_S = 0.1

Start = Callable[[], subprocess.Popen[bytes]]


class WorkerWatch:
    """A thread that watches workers: the learner does not know those that never came to it.

    The kernel kills each process when the *thread* ends that has started it. So this one lives until `end`.
    """

    def __init__(
        self, processes: list[subprocess.Popen[bytes]], places: Sequence[Endpoint], starts: Sequence[Start], noun: str
    ):
        """Creates the thread without starting it.

        Args:
            processes: The workers; those that are started in place of others replace them here.
            places: Where each worker's learner listens, while its run goes on.
            starts: Start each worker again in place of one that has ended, except by a mistake; empty if none is.
            noun: The name of a worker in messages.
        """
        self._processes, self._places, self._starts, self._noun = processes, places, starts, noun
        self._closing, self._is_idle, self._ended = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="workers", daemon=True)

    def start(self) -> None:
        """Starts the thread, once all workers have been."""
        self._thread.start()

    def close(self) -> None:
        """Names and starts no more workers, as the run has ended."""
        self._closing.set()
        if self._thread.ident is not None:
            self._is_idle.wait()

    def end(self) -> None:
        """Ends the thread, as all workers have ended."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._watch()
        finally:
            self._is_idle.set()
            self._ended.wait()

    def _watch(self) -> None:
        told = set[int]()
        pauses_s, due_s = [_PAUSE_S] * len(self._processes), dict[int, float]()
        while not self._closing.wait(_POLL_S):
            for index, process in enumerate(self._processes):
                if (code := process.poll()) and process.pid not in told:
                    told.add(process.pid)
                    logging.error("%s.", describe_end(f"The {self._noun} in process {process.pid}", code))
                    if self._starts and code != MISTAKE:
                        due_s[index] = time.monotonic() + pauses_s[index]
                        pauses_s[index] = min(2 * pauses_s[index], _LONGEST_PAUSE_S)
                if time.monotonic() >= due_s.get(index, float("inf")) and self._places[index].is_taken():
                    del due_s[index]
                    logging.warning("Starts another %s in place of process %d.", self._noun, process.pid)
                    self._processes[index] = self._starts[index]()
