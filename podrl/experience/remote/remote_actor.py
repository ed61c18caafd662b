"""An actor in an actor worker; to the learner it is an actor like any other."""

from collections import deque
from collections.abc import Callable
import time
from typing import Any

from jax.sharding import Mesh

from podrl.config.config import ConfigError
from podrl.experience.actors import ActorError
from podrl.experience.handoff import Handoff, Rollout
from podrl.experience.remote.connection import EnvWorkerError, WorkerConnection
from podrl.experience.remote.messages import Kind, read_fields, read_head
from podrl.experience.remote.rollouts import RolloutCodec
from podrl.experience.remote.trees import Pieces
from podrl.experience.transfer import rollout_to_learner
from podrl.runtime.ledger import Ledger
from podrl.runtime.waiting import Stopped

_KEPT = 16  # Descriptions of what was not finite.
ANY = 0  # The number of a message that an actor may send at any time: that it has failed.


class WorkersLedger(Ledger):
    """The ledger of an actor's thread in a worker, as the newest rollout told of it."""

    def __init__(self, name: str):
        """Starts with no time spent."""
        super().__init__(name)
        self._told_s = dict.fromkeys(super().seconds(), 0.0)
        self._told_at_s = time.monotonic()

    def tell(self, spent_s: dict[str, float]) -> None:
        """Takes the seconds in each bucket so far."""
        self._told_s = self._told_s | {bucket: spent for bucket, spent in spent_s.items() if bucket in self._told_s}
        self._told_at_s = time.monotonic()
        self.changes += 1

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


class RemoteActor:
    """An actor in a worker, and its channel.

    Attributes:
        name: The actor's name; once its worker has come, also the worker's.
        ledger: Where its thread's time goes.
        nonfinite: The values from its environments that were not finite.
        newest: The rollout that was taken last.
        number: Its channel's number on the connection.
    """

    def __init__(self, index: int, codec: RolloutCodec, local_learner: Mesh, timeout_s: float):
        """Creates the actor, whose worker has not come yet.

        Args:
            index: Its index in the learner's process.
            codec: Reads its rollouts.
            local_learner: The mesh of learner devices that rollouts are sent to.
            timeout_s: How long the learner waits for a rollout.
        """
        self.name = f"actor {index}"
        self.ledger = WorkersLedger(self.name)
        self.nonfinite = RemoteNonFinite()
        self.newest: Rollout | None = None
        self.number = 0
        self._codec, self._local_learner, self._timeout_s = codec, local_learner, timeout_s
        self._handoff = Handoff(capacity=1 << 30)  # Credits are the limit.
        self._pieces = Pieces(codec.longest_bytes)
        self._owed: deque[int] = deque()  # Rollouts that the worker may send, in order.
        self._connection: WorkerConnection | None = None
        self._is_stopped, self._has_failed = False, False

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
        try:
            waits = f"has not sent rollout {self._owed[0]}"
        except IndexError:
            waits = "waits for the learner"
        return f"{self.name} {waits}, and sent nothing for {seconds:.1f} s"

    def fail(self, error: BaseException) -> None:
        """Makes `take` raise `error` once there are no more rollouts; the first one counts."""
        if not self._has_failed:
            self._has_failed = True
            self._handoff.fail(error)

    def attach(self, connection: WorkerConnection, number: int) -> "RemoteActor":
        """Becomes a channel of the worker's connection; see `WorkerConnection.open_channel`."""
        self._connection, self.number = connection, number
        self.name = f"{self.name} on {connection.name}"
        return self

    def grant(self, rollout: int) -> None:
        """Lets the worker send this rollout, after those granted before."""
        self._owed.append(rollout)

    def take_credit(self, number: int) -> bool:
        """Returns whether a message with this number may come now."""
        return number == ANY or bool(self._owed and self._owed[0] + 1 == number)

    def put(self, message: bytes | None) -> None:
        """Takes a message of the worker's; None when the connection has ended.

        Raises:
            ValueError: If it is not the rollout that is expected.
        """
        if message is None:
            return self.fail(self._ended())
        head = read_head(message)
        if head.kind == Kind.FAILED:
            return self.fail(self._failure(read_fields(message)))
        if head.kind not in (Kind.ROLLOUT, Kind.PART_OF_ROLLOUT) or head.number == ANY:
            raise ValueError(f"{head.kind.name} instead of ROLLOUT")
        content = self._pieces.add(head, message, is_last=head.kind == Kind.ROLLOUT)
        if content is not None:
            self._receive(self._owed.popleft(), content)
        return None

    def _receive(self, number: int, content: bytes) -> None:
        sent = self._codec.decode(content)
        trajectories = tuple(rollout_to_learner(each, self._local_learner) for each in sent.trajectories)
        self.nonfinite.note(sent.nonfinite, number)
        self.ledger.tell(dict(sent.spent_s))
        rollout = Rollout(trajectories=trajectories, version=sent.version, episodes=sent.episodes)
        self._handoff.put(rollout, timeout_s=self._timeout_s, who=self.name)

    def _ended(self) -> BaseException:
        """Returns the error of a connection that has ended."""
        try:
            if self._connection is not None:
                self._connection.check()
        except EnvWorkerError as error:
            return lost(error)
        except Stopped as stopped:
            return stopped
        return Stopped()

    def _failure(self, fields: dict[str, Any]) -> BaseException:
        text = str(fields.get("text"))[:2000]
        failure = ActorError(f"{self.name} failed: {text}")
        failure.__cause__ = ConfigError(f"{self.name}: {text}") if fields.get("is_mistake") else RuntimeError(text)
        return failure


def lost(error: EnvWorkerError) -> ActorError:
    """Returns the actor's error of a worker that was lost or failed."""
    failure = ActorError(str(error))
    failure.__cause__ = error
    return failure
