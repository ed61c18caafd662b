"""Parameters on their way to actor workers, and the rollouts that are granted with them."""

from collections.abc import Sequence
import dataclasses
import functools
import queue

import jax
import numpy as np

from podrl.experience.remote.connection import WorkerConnection
from podrl.experience.remote.messages import Head, Kind, pack_fields, read_head
from podrl.experience.remote.remote_actor import RemoteActor
from podrl.experience.remote.trees import TreeCodec, to_pieces
from podrl.experience.remote.versions import Publication, Publishing, is_true
from podrl.types import PyTree, Trajectory


@dataclasses.dataclass(frozen=True)
class _Pull:
    """A worker asks for the newest parameters."""

    worker: int


class ActorParameters:
    """Sends what the main thread publishes, in a thread that calls `send_all`.

    Attributes:
        sent: Versions that were sent, to all workers or one.
    """

    def __init__(self, publishing: Publishing, params: PyTree, actors: Sequence[RemoteActor]):
        """Starts without any.

        Args:
            publishing: Decides which act.
            params: Shapes and dtypes of parameters.
            actors: All of this process.
        """
        self.sent = 0
        self._publishing, self._actors = publishing, actors
        self._codec = TreeCodec(params)
        self._queue: queue.SimpleQueue[Publication | _Pull | None] = queue.SimpleQueue()
        self._granted: dict[int, int] = {}  # The oldest version that may make each rollout that was not checked yet.

    def publish(self, version: int, params: PyTree, newest: tuple[Trajectory, ...]) -> None:
        """Decides about an update's parameters; see `Publishing.decide`."""
        publication = self._publishing.decide(version, params, newest)
        if publication is not None:
            self._queue.put(publication)

    def stop(self) -> None:
        """Ends `send_all`."""
        self._queue.put(None)

    def versions(self, rollout: int, *, exact: bool) -> range:
        """Returns the versions that may have made a rollout, which has come; asked once for each."""
        oldest = self._granted.pop(rollout)
        return range(oldest, oldest + 1 if exact else rollout + 1)

    def send_all(self, connections: Sequence[WorkerConnection]) -> None:
        """Sends what is published until `stop`.

        Raises:
            EnvWorkerError: If a worker was lost.
            Stopped: If the learner has ended the connections.
        """
        channels: list[_Pulls] = [
            connection.open_channel(functools.partial(_Pulls, self._queue, worker))
            for worker, connection in enumerate(connections)
        ]
        held, newest = [-1] * len(connections), None
        while (item := self._queue.get()) is not None:
            if isinstance(item, Publication):
                newest = item
                if is_true(item.is_fresh):
                    held = self._send(item, connections, held, range(len(connections)))
                for channel, connection, drift in zip(channels, connections, item.drifts, strict=False):
                    channel.allow()
                    fields = {"drift": repr(float(np.asarray(drift)))}  # As text, since it may be no number.
                    connection.send(pack_fields(Head(Kind.DRIFT, channel.number, item.version), **fields))
                self._grant(item.rollouts, min(held), connections)
            elif newest is not None and held[item.worker] != newest.version:
                held = self._send(newest, connections, held, [item.worker])
                self._publishing.hold(item.worker, newest.params)

    def _send(
        self,
        publication: Publication,
        connections: Sequence[WorkerConnection],
        held: Sequence[int],
        workers: Sequence[int],
    ) -> list[int]:
        """Sends parameters to some workers; returns which version each worker holds now."""
        content = self._codec.encode(jax.tree.map(np.asarray, publication.params))
        self.sent += 1
        for worker in workers:
            for message in to_pieces(Kind.PARAMS, Kind.PART_OF_PARAMS, 0, publication.version, content):
                connections[worker].send(message)
        return [publication.version if worker in workers else version for worker, version in enumerate(held)]

    def _grant(self, rollouts: Sequence[int], version: int, connections: Sequence[WorkerConnection]) -> None:
        for rollout in rollouts:
            self._granted[rollout] = version
            for actor in self._actors:
                actor.grant(rollout)
            for connection in connections:
                connection.send(pack_fields(Head(Kind.GO, number=rollout), version=version))


class _Pulls:
    """The channel on which a worker pulls; each drift that it is told lets it do so once.

    Attributes:
        number: Its number on the connection.
    """

    def __init__(
        self,
        pulled: "queue.SimpleQueue[Publication | _Pull | None]",
        worker: int,
        connection: WorkerConnection,
        number: int,
    ):
        """Becomes a channel of the worker's connection, which passes what it asks for to `pulled`."""
        self.number = number
        self._pulled, self._worker = pulled, worker
        self._told, self._number_of_pulls = 0, 0

    def allow(self) -> None:
        """Lets the worker pull once more."""
        self._told += 1

    def take_credit(self, number: int) -> bool:
        """Returns whether it may pull, whatever the version that it was told of."""
        self._number_of_pulls += 1
        return self._number_of_pulls <= self._told

    def put(self, message: bytes | None) -> None:
        """Takes a message of the worker's.

        Raises:
            ValueError: If it does not pull.
        """
        if message is not None and read_head(message).kind != Kind.PULL:
            raise ValueError(f"{read_head(message).kind.name} instead of PULL")
        if message is not None:
            self._pulled.put(_Pull(self._worker))
