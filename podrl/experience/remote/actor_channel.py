"""An actor of an actor worker as the learner sees it: the rollouts that it owes, and those that it sends.

A worker counts an actor's rollouts itself. Which rollout of the learner's each of them becomes is decided when it has
come: the one that is due first of those that the actor owes. So an actor can also make rollouts for the place of
another one, whose worker was lost.
"""

from collections.abc import Callable
import dataclasses
import threading
from typing import Any

from podrl.config.config import ConfigError
from podrl.experience.actors import ActorError
from podrl.experience.remote.connection import EnvWorkerError, WorkerConnection
from podrl.experience.remote.messages import Kind, read_fields, read_head
from podrl.experience.remote.remote_actor import Made, RemoteActor
from podrl.experience.remote.rollouts import RolloutCodec
from podrl.experience.remote.trees import Pieces
from podrl.runtime.waiting import Stopped

ANY = 0  # The number of a message that an actor may send at any time: that it has failed.


@dataclasses.dataclass(frozen=True)
class Task:
    """A rollout that an update learns from.

    Attributes:
        rollout: Its number.
        actor: Whose place in the batch it has.
    """

    rollout: int
    actor: RemoteActor


class ActorChannel:
    """The channel of an actor in a worker, as long as the worker is there.

    Attributes:
        number: Its number on the connection.
        actor: The learner's actor whose environments it has.
    """

    def __init__(
        self,
        actor: RemoteActor,
        codec: RolloutCodec,
        connection: WorkerConnection,
        number: int,
        *,
        first: int,
        lose: Callable[[], None] | None = None,
    ):
        """Becomes a channel of the worker's connection; see `WorkerConnection.open_channel`.

        Args:
            actor: The learner's actor whose environments it has.
            codec: Reads its rollouts.
            connection: The worker's.
            number: The channel's number on it.
            first: What the worker calls the actor's first rollout.
            lose: Called once the worker was lost; None if that ends the run.
        """
        self.number, self.actor = number, actor
        self._codec, self._connection, self._lose = codec, connection, lose
        self._first = self._sent = self._granted = first
        self._lock = threading.Lock()
        self._owed: list[Task] = []
        self._pieces = Pieces(codec.longest_bytes)
        actor.attach(connection.name)

    @property
    def num_owed(self) -> int:
        """How many rollouts the actor owes."""
        return len(self._owed)

    @property
    def next_number(self) -> int:
        """What the worker will call the next rollout that it is granted."""
        return self._granted

    def grant(self, task: Task) -> int:
        """Lets the actor make one more rollout; returns what the worker calls it."""
        with self._lock:
            self._owed = sorted([*self._owed, task], key=lambda each: (each.rollout, each.actor is not self.actor))
            self._granted += 1
            return self._granted - 1

    def take_back(self) -> list[Task]:
        """Returns what is owed, and owes nothing any more."""
        with self._lock:
            owed, self._owed = self._owed, []
            return owed

    def take_credit(self, number: int) -> bool:
        """Returns whether a message with this number may come now."""
        return number == ANY or (self._sent < self._granted and self._sent + 1 == number)

    def put(self, message: bytes | None) -> None:
        """Takes a message of the worker's; None when the connection has ended.

        Raises:
            ValueError: If it is not the rollout that is expected.
        """
        if message is None:
            return self._end()
        head = read_head(message)
        if head.kind == Kind.FAILED:
            return self._fail(read_fields(message))
        if head.kind not in (Kind.ROLLOUT, Kind.PART_OF_ROLLOUT) or head.number == ANY:
            raise ValueError(f"{head.kind.name} instead of ROLLOUT")
        content = self._pieces.add(head, message, is_last=head.kind == Kind.ROLLOUT)
        if content is not None:
            self._receive(content)
        return None

    def _receive(self, content: bytes) -> None:
        """Passes a rollout on to the place in the batch that it is owed to."""
        sent = self._codec.decode(content)
        self.actor.ledger.tell(dict(sent.spent_s))
        with self._lock:
            number, self._sent = self._sent, self._sent + 1
            if not self._owed:
                return  # The worker was lost meanwhile.
            task = self._owed.pop(0)
        task.actor.place(task.rollout, Made(sent=sent, channel=self, number=number))

    def _end(self) -> None:
        """Learns that there will be no more messages."""
        try:
            self._connection.check()
        except EnvWorkerError as error:
            if self._lose is None:
                self.actor.fail(lost(error))
            else:
                self._lose()
        except Stopped as stopped:
            self.actor.fail(stopped)

    def _fail(self, fields: dict[str, Any]) -> None:
        """Learns that the actor failed: a worker that has made rollouts before may come back for it."""
        text, name = str(fields.get("text"))[:2000], self.actor.name
        if self._lose is not None and not (self.actor.is_new and self._sent == self._first):
            return self._connection.lose(f"{name} failed: {text}")
        failure = ActorError(f"{name} failed: {text}")
        failure.__cause__ = ConfigError(f"{name}: {text}") if fields.get("is_mistake") else RuntimeError(text)
        return self.actor.fail(failure)


def lost(error: EnvWorkerError) -> ActorError:
    """Returns the actor's error of a worker that was lost or failed."""
    failure = ActorError(str(error))
    failure.__cause__ = error
    return failure
