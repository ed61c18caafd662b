"""Writes the rollouts that a run learns from into a data set, in a thread; every wait has a timeout.

What ended in updates up to a checkpoint is committed before that checkpoint is made, and every shard has the newest
update in it. So a run that resumes drops the shards of later updates and makes the same episodes again: each is there
once.
"""

from collections import deque
from collections.abc import Callable, Sequence
import dataclasses
import threading

from absl import logging
import jax
import numpy as np

from podrl.config.config import ConfigError
from podrl.data.cutting import EpisodeCutter
from podrl.data.writer import DataWriter
from podrl.runtime.ledger import Ledger
from podrl.runtime.waiting import wait_for
from podrl.types import Trajectory

_JOIN_S = 10.0
_BUCKETS = ("wait_rollouts", "transfer", "cut", "write")


class RecordError(RuntimeError):
    """A run's episodes could not be written. The message names the folder; the cause is the original error."""


@dataclasses.dataclass(frozen=True)
class _Rollouts:
    """What the thread is given: the rollouts of an update, and how environments that it opened anew were seeded."""

    update: int
    trajectories: Sequence[Trajectory]
    seed_of: Callable[[int], int] | None


class RunRecorder:
    """Takes the rollouts of one update after another, and commits the episodes that end in them.

    Attributes:
        ledger: The thread's time: `wait_rollouts`, `transfer` from the devices, `cut` into episodes, `write`.
    """

    def __init__(self, writer: DataWriter, *, ahead: int = 4, timeout_s: float = 120.0):
        """Starts the thread.

        Args:
            writer: Writes the data set, in which the run's recording is begun; closed by `close`.
            ahead: Updates whose rollouts may wait to be written.
            timeout_s: How long the learner waits for the thread.
        """
        self.ledger = Ledger("recorder", _BUCKETS)
        self._writer, self._cutter = writer, EpisodeCutter()
        self._ahead, self._timeout_s = ahead, timeout_s
        self._changed, self._waiting = threading.Condition(), deque[_Rollouts]()
        self._is_busy, self._is_closed, self._update = False, False, 0
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def add(self, update: int, trajectories: Sequence[Trajectory], seed_of: Callable[[int], int] | None = None) -> None:
        """Takes the rollouts of an update, and waits while too many are still to be written.

        Args:
            update: The update's number, from 1.
            trajectories: One or more [T, B] on this process's devices, not donated.
            seed_of: (index of an environment in the job) -> its seed, if all were opened anew for these; else None.

        Raises:
            RecordError: If earlier episodes could not be written.
            TimeoutError: If the thread does not get on in time.
        """
        kept = [dataclasses.replace(each, carry=()) for each in trajectories]
        for leaf in jax.tree.leaves(kept):
            leaf.copy_to_host_async()
        with self._changed:
            self._wait(lambda: len(self._waiting) < self._ahead)
            self._waiting.append(_Rollouts(update, kept, seed_of))
            self._changed.notify_all()

    def commit(self, *, ends: bool = False) -> None:
        """Waits until all episodes so far are committed.

        Args:
            ends: Whether the recording is complete.

        Raises:
            RecordError: If one could not be written.
            TimeoutError: If that takes too long.
        """
        with self._changed:
            self._wait(lambda: not (self._waiting or self._is_busy))
        try:  # The thread has nothing to do until this one gives it more.
            self._writer.end() if ends else self._writer.commit()
        except (OSError, ValueError) as error:
            raise self._explain(error) from error

    def doing(self) -> str:
        """Describes what the thread does, for messages."""
        bucket, since_s = self.ledger.doing()
        return f"the recorder is at update {self._update}, for {since_s:.0f} s in {bucket!r}"

    def is_alive(self) -> bool:
        """Returns whether the thread runs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Ends the thread, and leaves the data set to others; what was not committed is dropped."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join(_JOIN_S)
        self._writer.close()

    def _wait(self, condition: Callable[[], bool]) -> None:
        """Waits for the thread, holding `_changed`."""
        wait_for(
            self._changed,
            lambda: self._error is not None or condition(),
            timeout_s=self._timeout_s,
            blame=lambda: (
                f"The learner waited {self._timeout_s:.0f} s for its rollouts to be recorded: {self.doing()}. If the "
                "disk of record.path is this slow, raise actors.timeout_s."
            ),
        )
        if self._error is not None:
            raise self._explain(self._error) from self._error

    def _explain(self, error: BaseException) -> RecordError:
        text = str(error).partition("\n")[0]
        return RecordError(f"record.path={self._writer.folder} cannot be written: {text or type(error).__name__}")

    def _run(self) -> None:
        try:
            while (rollouts := self._next()) is not None:
                self._record(rollouts)
                with self._changed:
                    self._is_busy = False
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 (the learner raises it)
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _next(self) -> _Rollouts | None:
        """Waits for rollouts; None if there will be none."""
        with self.ledger.spend("wait_rollouts"), self._changed:
            # The learner may compile or evaluate for hours; it closes the recorder when it ends.
            while not (self._waiting or self._is_closed):
                self._changed.wait(1.0)
            if self._is_closed:
                return None
            self._is_busy = True
            self._changed.notify_all()
            return self._waiting.popleft()

    def _record(self, rollouts: _Rollouts) -> None:
        self._update = rollouts.update
        if rollouts.seed_of is not None:
            self._cutter.reopen(rollouts.seed_of)
        for trajectory in rollouts.trajectories:
            with self.ledger.spend("transfer"):
                held = jax.tree.map(np.asarray, trajectory)
            with self.ledger.spend("cut"):
                episodes = list(self._cutter.cut(held))
            with self.ledger.spend("write"):
                for episode in episodes:
                    try:
                        self._writer.add(episode, rollouts.update)
                    except ConfigError as error:
                        logging.warning("Left out of %s: %s", self._writer.folder, error)
