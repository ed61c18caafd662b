"""Parameters on their way to actor workers, and the rollouts that are granted with them."""

from collections.abc import Sequence
import dataclasses
import functools
import queue

import jax
import numpy as np

from podrl.experience.remote.actor_channel import Task
from podrl.experience.remote.actor_links import ActorLink, ActorLinks, deal
from podrl.experience.remote.connection import WorkerConnection
from podrl.experience.remote.messages import Head, Kind, pack_fields, read_head
from podrl.experience.remote.remote_actor import RemoteActor
from podrl.experience.remote.trees import TreeCodec, to_pieces
from podrl.experience.remote.versions import Publication, Publishing, is_true
from podrl.types import PyTree, Trajectory

_SLICE_S = 1.0  # The longest wait without a look at who has come.


@dataclasses.dataclass(frozen=True)
class _Pull:
    """A worker asks for the newest parameters."""

    link: ActorLink


@dataclasses.dataclass(frozen=True)
class _Change:
    """A worker has compiled, or was lost."""


_Queue = queue.SimpleQueue[Publication | _Pull | _Change | None]


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
        self._queue: _Queue = queue.SimpleQueue()
        self._granted: dict[int, int] = {}  # The oldest version that may make each rollout that was not checked yet.
        self._tasks: list[Task] = []  # Rollouts that no actor owes yet.
        self._newest: Publication | None = None
        self._pulls: dict[ActorLink, _Pulls] = {}  # If they pull.

    def publish(self, version: int, params: PyTree, newest: tuple[Trajectory, ...]) -> None:
        """Decides about an update's parameters; see `Publishing.decide`."""
        publication = self._publishing.decide(version, params, newest)
        if publication is not None:
            self._queue.put(publication)

    def stop(self) -> None:
        """Ends `send_all`."""
        self._queue.put(None)

    def wake(self) -> None:
        """Lets `send_all` look at the workers; from any thread."""
        self._queue.put(_Change())

    def versions(self, rollout: int, *, exact: bool) -> range:
        """Returns the versions that may have made a rollout, which has come; asked once for each."""
        oldest = self._granted.pop(rollout)
        return range(oldest, oldest + 1 if exact else rollout + 1)

    def send_all(self, links: ActorLinks) -> None:
        """Sends what is published until `stop`.

        Args:
            links: The workers, all of which have started.

        Raises:
            EnvWorkerError: If a worker was lost that the run cannot do without.
            TimeoutError: If there has been no worker for too long.
            Stopped: If the learner has ended the connections.
        """
        for link in links.present():
            self._open_pulls(link)
        while (item := self._next(links)) is not None:
            if isinstance(item, Publication):
                self._newest = item
                self._send_publication(item, links)
            elif isinstance(item, _Pull) and item.link in links.present():
                self._send_newest(item.link)
            if links.replaces:
                self._replace(links)
            self._deal(links)

    def _next(self, links: ActorLinks) -> Publication | _Pull | _Change | None:
        try:
            return self._queue.get(timeout=_SLICE_S if links.replaces else None)
        except queue.Empty:
            return _Change()

    def _replace(self, links: ActorLinks) -> None:
        """Takes back what lost workers owe, and gives those that have come the newest parameters."""
        self._tasks += links.take_back()
        for link in links.look(self._newest.version if self._newest else 0):
            self._open_pulls(link)
            self._send_newest(link)
        self._pulls = {link: pulls for link, pulls in self._pulls.items() if link in links.present()}

    def _send_publication(self, publication: Publication, links: ActorLinks) -> None:
        """Sends parameters if they act, and else how far they have drifted; notes the rollouts that they make."""
        if is_true(publication.is_fresh):
            self._send(publication, links.present())
        for link, pulls in self._pulls.items() if publication.drifts else ():
            pulls.allow()
            drift = repr(float(np.asarray(publication.drifts[link.index])))  # As text, since it may be no number.
            link.send(pack_fields(Head(Kind.DRIFT, pulls.number, publication.version), drift=drift))
        oldest = min((link.held for link in links.present()), default=publication.version)
        for rollout in publication.rollouts:
            self._granted[rollout] = oldest
            self._tasks += [Task(rollout, actor) for actor in self._actors]

    def _send_newest(self, link: ActorLink) -> None:
        """Sends a worker the newest parameters, unless it has them."""
        if self._newest is not None and link.held != self._newest.version:
            self._send(self._newest, [link])
            if self._publishing.pulls:
                self._publishing.hold(link.index, self._newest.params)

    def _send(self, publication: Publication, links: Sequence[ActorLink]) -> None:
        content = self._codec.encode(jax.tree.map(np.asarray, publication.params))
        self.sent += 1
        for link in links:
            for message in to_pieces(Kind.PARAMS, Kind.PART_OF_PARAMS, 0, publication.version, content):
                link.send(message)
            link.held = publication.version

    def _deal(self, links: ActorLinks) -> None:
        """Grants the rollouts that no actor owes."""
        if self._tasks and (present := links.present()):
            dealt, self._tasks = deal(self._tasks, present), []
            for link, channel, task in dealt:
                number = channel.grant(task)
                link.send(pack_fields(Head(Kind.GO, channel.number, number), version=link.held))

    def _open_pulls(self, link: ActorLink) -> None:
        """Lets a worker pull parameters."""
        if self._publishing.pulls:
            self._pulls[link] = link.connection.open_channel(functools.partial(_Pulls, self._queue, link))


class _Pulls:
    """The channel on which a worker pulls; each drift that it is told lets it do so once.

    Attributes:
        number: Its number on the connection.
    """

    def __init__(
        self,
        pulled: _Queue,
        link: ActorLink,
        connection: WorkerConnection,
        number: int,
    ):
        """Becomes a channel of the worker's connection, which passes what it asks for to `pulled`."""
        self.number = number
        self._pulled, self._link = pulled, link
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
            self._pulled.put(_Pull(self._link))
