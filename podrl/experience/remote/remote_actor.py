"""An actor in an actor worker; to the learner it is an actor like any other."""

from collections.abc import Callable, Sequence
import dataclasses
import threading
import time
from typing import cast

import jax
from jax.sharding import Mesh
import numpy as np

from podrl.experience.handoff import Handoff, Rollout
from podrl.experience.remote.rollouts import SentRollout
from podrl.experience.transfer import rollout_to_learner
from podrl.runtime.ledger import Ledger
from podrl.types import Trajectory

_KEPT = 16  # Descriptions of what was not finite.


class WorkersLedger(Ledger):
    """The ledger of an actor's thread in a worker, as the newest rollout told of it."""

    def __init__(self, name: str):
        """Starts with no time spent."""
        super().__init__(name)
        self._told_s = dict.fromkeys(super().seconds(), 0.0)
        self._before_s = dict(self._told_s)  # What workers had told before they were lost.
        self._told_at_s = time.monotonic()

    def tell(self, spent_s: dict[str, float]) -> None:
        """Takes the seconds in each bucket so far, since the worker's start."""
        known = {bucket: spent for bucket, spent in spent_s.items() if bucket in self._told_s}
        self._told_s |= {bucket: self._before_s[bucket] + spent for bucket, spent in known.items()}
        self._told_at_s = time.monotonic()
        self.changes += 1

    def begin(self) -> None:
        """Notes that another worker starts to count."""
        self._before_s = dict(self._told_s)

    def seconds(self) -> dict[str, float]:
        """Returns what was told last."""
        return dict(self._told_s)

    def doing(self) -> tuple[str, float]:
        """Returns that the learner waits for it, which has a timeout, and the seconds since it was told anything."""
        return "wait_rollouts", time.monotonic() - self._told_at_s


class RemoteNonFinite:
    """Descriptions of values that were not finite, by rollout; see `podrl.experience.turn.NonFinite`."""

    def __init__(self) -> None:
        """Creates an empty record."""
        self._found: dict[int, str] = {}

    def note(self, text: str, rollout: int) -> None:
        """Records a description, unless it is empty."""
        if text:
            self._found[rollout] = text
            if len(self._found) > _KEPT:
                del self._found[min(self._found)]

    def of(self, rollout: int) -> str:
        """Returns the description of a rollout's first such value; empty if all are finite."""
        return self._found.get(rollout, "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made:
    """A rollout as it came from a worker.

    Attributes:
        sent: The rollout.
        channel: The channel that it came on.
        number: Its number among those of this channel; a rollout continues the one before it there.
    """

    sent: SentRollout
    channel: object
    number: int


class RemoteActor:
    """An actor whose environments are in a worker, and its place in every batch.

    Attributes:
        name: The actor's name; once its worker has come, also the worker's.
        ledger: Where its thread's time goes.
        nonfinite: The values in its rollouts that were not finite.
        newest: The rollout that was taken last.
        is_new: Whether no second worker has come for it.
    """

    def __init__(
        self,
        index: int,
        local_learner: Mesh,
        timeout_s: float,
        *,
        first: int,
        env_indices: Sequence[np.ndarray],
        marks_cuts: bool = False,
    ):
        """Creates the actor, whose worker has not come yet.

        Args:
            index: Its index in the learner's process.
            local_learner: The mesh of learner devices that rollouts are sent to.
            timeout_s: How long the learner waits for a rollout.
            first: The number of its first rollout.
            env_indices: For each pool, [B] uint32: the indices of its environments in the whole job.
            marks_cuts: Whether row 0 of a rollout that does not continue the one before it counts as the first of an
                episode: a replay of sequences would join what does not belong together.
        """
        self.name = self._own_name = f"actor {index}"
        self.ledger = WorkersLedger(self.name)
        self.nonfinite = RemoteNonFinite()
        self.newest: Rollout | None = None
        self._local_learner, self._timeout_s = local_learner, timeout_s
        self._env_indices, self._marks_cuts = env_indices, marks_cuts
        self._handoff = Handoff(capacity=1 << 30)  # Credits are the limit.
        self._lock = threading.Lock()
        self._next, self._early = first, dict[int, Made]()  # Those that came before rollout `next`.
        self._before: tuple[object, int] | None = None  # The channel and number of the rollout before.
        self._num_workers = 0
        self._is_stopped, self._has_failed = False, False

    @property
    def is_new(self) -> bool:
        """Whether no second worker has come for it."""
        return self._num_workers < 2

    def attach(self, worker: str) -> None:
        """Notes the name of a worker that has come for it."""
        self._num_workers += 1
        self.name = f"{self._own_name} on {worker}"
        self.ledger.begin()

    def start(self) -> None:
        """Does nothing: the worker starts it."""

    def take(self, should_stop: Callable[[], bool] = lambda: False) -> Rollout:
        """Waits for the next rollout, and returns it; see `podrl.experience.actors.Actor.take`."""
        self.newest = self._handoff.take(timeout_s=self._timeout_s, blame=self.doing, should_stop=should_stop)
        return self.newest

    def is_decided(self) -> bool:
        """Returns whether `take` would return or raise at once."""
        return self._handoff.is_decided()

    def stop(self) -> None:
        """Marks the actor as ended; its worker is told by the connection."""
        self._is_stopped = True

    def join(self, timeout_s: float) -> bool:
        """Returns that nothing is left to wait for here."""
        return True

    def is_alive(self) -> bool:
        """Returns whether it is to make rollouts."""
        return not self._is_stopped

    def doing(self) -> str:
        """Describes what the learner waits for, for messages."""
        _, seconds = self.ledger.doing()
        return f"{self.name} has not sent rollout {self._next}, and sent nothing for {seconds:.1f} s"

    def fail(self, error: BaseException) -> None:
        """Makes `take` raise `error` once there are no more rollouts; the first one counts."""
        if not self._has_failed:
            self._has_failed = True
            self._handoff.fail(error)

    def place(self, rollout: int, made: Made) -> None:
        """Takes a rollout for its place, in any order; starts moving it to the learner once those before it came."""
        with self._lock:
            self._early[rollout] = made
            while (made_next := self._early.pop(self._next, None)) is not None:
                self.nonfinite.note(made_next.sent.nonfinite, self._next)
                self._handoff.put(self._fit(made_next), timeout_s=self._timeout_s, who=self.name)
                self._next += 1

    def _fit(self, made: Made) -> Rollout:
        """Returns a rollout as one of this place's environments."""
        continues = self._before == (made.channel, made.number - 1)
        self._before = (made.channel, made.number)
        is_cut = self._marks_cuts and not continues
        trajectories = tuple(
            rollout_to_learner(_as_of(each, env_index, is_cut=is_cut), self._local_learner)
            for each, env_index in zip(made.sent.trajectories, self._env_indices, strict=True)
        )
        return Rollout(trajectories=trajectories, version=made.sent.version, episodes=made.sent.episodes)


def _as_of(trajectory: Trajectory, env_index: np.ndarray, *, is_cut: bool) -> Trajectory:
    """Returns a trajectory on the host as one of other environments; if it is cut, row 0 opens an episode."""
    first = np.array(trajectory.first)
    first[0] |= is_cut
    return dataclasses.replace(trajectory, first=cast(jax.Array, first), env_index=cast(jax.Array, env_index))
