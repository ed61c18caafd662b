"""The way of rollouts from an actor thread to the main thread: bounded, in order, and never waited on for ever."""

from collections import deque
from collections.abc import Callable
import dataclasses
import threading

from podrl.runtime.waiting import Stopped, wait_for
from podrl.types import Trajectory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollout:
    """What an actor hands over for one update.

    Attributes:
        trajectories: one of each pool, on this process's learner devices (perhaps still on their way).
        version: learner step of the parameters that acted.
        episodes: (return, length) of the episodes that ended, in a fixed order.
    """

    trajectories: tuple[Trajectory, ...]
    version: int
    episodes: tuple[tuple[float, int], ...]


class Handoff:
    """A bounded, ordered way from one actor to the main thread, on which nobody waits for ever."""

    def __init__(self, capacity: int):
        """Starts empty; `put` waits while `capacity` rollouts are on their way."""
        self._capacity = capacity
        self._changed = threading.Condition()
        self._rollouts: deque[Rollout] = deque()
        self._error: BaseException | None = None
        self._stopped = False

    def put(self, rollout: Rollout, *, timeout_s: float, who: str) -> None:
        """Hands one rollout over.

        Raises:
            TimeoutError: if the learner does not take an earlier one in time.
            Stopped: if the run ends first.
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
        """The oldest rollout.

        Args:
            timeout_s: how long to wait for it.
            blame: says what the other side is doing, for the message.
            should_stop: asked every second of a wait.

        Raises:
            TimeoutError: if none comes in time.
            Stopped: if the run is to end before one comes.
            BaseException: whatever ended the other side.
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
        """Whether `take` would return or raise at once."""
        return bool(self._rollouts) or self._error is not None

    def fail(self, error: BaseException) -> None:
        """Keeps what ended the actor, to be raised by the next `take`."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def stop(self) -> None:
        """Wakes a waiting `put`, with `Stopped`."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
