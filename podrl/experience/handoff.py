"""The queue of rollouts from an actor thread to the main thread: bounded, first in first out, with timeouts."""

from collections import deque
from collections.abc import Callable
import dataclasses
import threading

from podrl.experience.episodes import Episode
from podrl.runtime.waiting import Stopped, wait_for
from podrl.types import Trajectory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollout:
    """What one actor contributes to one update.

    Attributes:
        trajectories: One trajectory per pool, on this process's learner devices; the copies may still be under way.
        version: The learner step of the parameters that acted.
        episodes: The episodes that ended, in a fixed order.
    """

    trajectories: tuple[Trajectory, ...]
    version: int
    episodes: tuple[Episode, ...]


class Handoff:
    """A bounded FIFO queue from one actor to the main thread; every wait has a timeout."""

    def __init__(self, capacity: int):
        """Creates an empty queue, on which `put` blocks while it holds `capacity` rollouts."""
        self._capacity = capacity
        self._changed = threading.Condition()
        self._rollouts: deque[Rollout] = deque()
        self._error: BaseException | None = None
        self._stopped = False

    def put(self, rollout: Rollout, *, timeout_s: float, who: str) -> None:
        """Appends one rollout, and waits while the queue is full.

        Raises:
            TimeoutError: If the learner does not take an earlier rollout in time.
            Stopped: If the run ends first.
        """
        with self._changed:
            wait_for(
                self._changed,
                lambda: self._stopped or len(self._rollouts) < self._capacity,
                timeout_s=timeout_s,
                blame=lambda: (
                    f"{who} waited {timeout_s:.0f} s for the learner to take a rollout. If updates are this slow, "
                    "raise actors.timeout_s."
                ),
            )
            if self._stopped:
                raise Stopped
            self._rollouts.append(rollout)
            self._changed.notify_all()

    def take(self, *, timeout_s: float, blame: Callable[[], str], should_stop: Callable[[], bool]) -> Rollout:
        """Removes the oldest rollout and returns it, and waits while the queue is empty.

        Args:
            timeout_s: How long to wait.
            blame: Returns what the actor is doing, for the error message.
            should_stop: Called every second of a wait.

        Raises:
            TimeoutError: If no rollout arrives in time.
            Stopped: If the run has to stop before one arrives.
            BaseException: The error that ended the actor.
        """
        with self._changed:
            wait_for(
                self._changed,
                self.is_decided,
                timeout_s=timeout_s,
                blame=lambda: (
                    f"The learner waited {timeout_s:.0f} s for a rollout: {blame()}. If environments are this slow, "
                    "raise actors.timeout_s or lower actors.unroll_length."
                ),
                should_stop=should_stop,
            )
            if not self._rollouts and self._error is not None:
                raise self._error
            self._changed.notify_all()
            return self._rollouts.popleft()

    def is_decided(self) -> bool:
        """Returns whether `take` would return or raise at once."""
        return bool(self._rollouts) or self._error is not None

    def fail(self, error: BaseException) -> None:
        """Stores the error that ended the actor. `take` raises it once the queue is empty."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def stop(self) -> None:
        """Makes a waiting `put` raise `Stopped`."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
