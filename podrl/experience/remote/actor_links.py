"""The actor workers that are there: each starts its actors, may be lost, and another may come in its place.

With `determinism='free'` a lost worker does not end the run. What its actors owe is made by those of the others, so
every update still has its whole batch, and no rollout of it is older than `actors.max_lag` allows: an actor starts each
rollout with the newest parameters that its worker has, which are at least those that the rollout was granted with. A
worker that comes back, or another in its place, opens its environments anew, with new seeds.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import TYPE_CHECKING, Any

from absl import logging

from podrl.experience.remote.actor_channel import ActorChannel, Task
from podrl.experience.remote.connection import Channel, EnvWorkerError, WorkerConnection
from podrl.experience.remote.messages import Kind, pack_fields
from podrl.experience.remote.remote_actor import RemoteActor
from podrl.experience.remote.rollouts import RolloutCodec
from podrl.mistakes import ConfigError
from podrl.runtime.waiting import Patience

if TYPE_CHECKING:  # It wants gRPC.
    from podrl.experience.remote.server import WorkerServer

_ANSWER_S = 1.0  # Until an answer that has come is read.


@dataclasses.dataclass(kw_only=True, eq=False)
class ActorLink:
    """A worker.

    Attributes:
        index: Its index among the workers.
        connection: Its connection.
        channels: Those of its actors.
        starting: The channel on which it says that it has compiled.
        patience: The time left until then.
        is_needed: Whether the run ends without it.
        held: The version of the parameters that it has; -1 for none.
    """

    index: int
    connection: WorkerConnection
    channels: Sequence[ActorChannel]
    starting: Channel
    patience: Patience
    is_needed: bool
    held: int = -1

    def send(self, message: bytes) -> None:
        """Queues a message; one to a worker that was lost, which is not needed, is dropped.

        Raises:
            EnvWorkerError: If a worker was lost that is needed.
            Stopped: If the learner has ended the connection.
        """
        try:
            self.connection.send(message)
        except EnvWorkerError:
            if self.is_needed:
                raise


class ActorLinks:
    """The workers of one process of a run, by their places. Used by one thread, except `wake`."""

    def __init__(
        self,
        server: "WorkerServer",
        actors: Sequence[RemoteActor],
        codec: RolloutCodec,
        start_fields: Callable[[Mapping[int, int], int], dict[str, Any]],
        *,
        num_workers: int,
        first: int,
        replaces: bool,
        starting_s: float,
        alone_s: float,
        wake: Callable[[], None],
    ):
        """Starts without workers.

        Args:
            server: Admits them.
            actors: The learner's actors, which the workers have in turn.
            codec: Reads rollouts.
            start_fields: (channel of each actor, number of their first rollout) -> what a worker is told.
            num_workers: How many there are.
            first: The number of the run's first rollout.
            replaces: Whether the run continues without a worker, and admits another.
            starting_s: How long a worker may compile.
            alone_s: How long the run may be without any.
            wake: Called in other threads once something has changed.
        """
        self.replaces = replaces
        self._server, self._actors, self._codec, self._start_fields = server, actors, codec, start_fields
        self._starting_s, self._alone_s, self._wake = starting_s, alone_s, wake
        self._firsts = [first] * num_workers  # What each worker calls the first rollout of its actors.
        self._links: list[ActorLink | None] = [None] * num_workers
        self._starting: list[ActorLink | None] = [None] * num_workers
        self._alone: Patience | None = None

    def start_all(self) -> list[ActorLink]:
        """Starts all workers, which have come, and waits until they have compiled.

        Raises:
            EnvWorkerError, ConfigError: If one of them fails.
            TimeoutError: If one of them does not in time.
        """
        starting = []
        for index in range(len(self._links)):
            if (connection := self._server.worker_if_there(index)) is None:
                raise EnvWorkerError(f"Actor worker {index} was lost before all had started; the log says why.")
            starting.append(self._begin(index, connection))
        for link in starting:
            try:
                link.starting.answer(Kind.STARTED, timeout_s=self._starting_s)
            except TimeoutError:
                raise TimeoutError(_blame(link, self._starting_s)) from None
            self._finish(link)
        logging.info("The actor workers are ready.")
        return starting

    def present(self) -> list[ActorLink]:
        """Returns the workers that are there."""
        return [link for link in self._links if link is not None]

    def take_back(self) -> list[Task]:
        """Drops the workers that were lost, and returns what they owe."""
        owed: list[Task] = []
        for index, link in enumerate(self._links):
            if link is not None and link.connection.why_lost:
                self._links[index] = None
                self._firsts[index] = max(channel.next_number for channel in link.channels)
                owed += [task for channel in link.channels for task in channel.take_back()]
        return owed

    def look(self, update: int) -> list[ActorLink]:
        """Starts the workers that have come in place of others, and returns those that have compiled since.

        Args:
            update: The newest update, from which the seeds of their environments follow.

        Raises:
            TimeoutError: If there has been no worker for too long.
        """
        ready = []
        for index, link in enumerate(self._starting):
            if link is not None and self._has_compiled(link):
                ready.append(self._finish(link))
            elif self._links[index] is None and self._starting[index] is None:
                self._admit(index, update)
        self._check_company()
        return ready

    def _admit(self, index: int, update: int) -> None:
        """Starts another worker if one is there."""
        connection = self._server.worker_if_there(index)
        if connection is not None:
            self._firsts[index] = max(self._firsts[index] + 1, update)
            try:
                self._starting[index] = self._begin(index, connection)
            except EnvWorkerError:
                self._starting[index] = None  # It was lost at this moment.

    def _begin(self, index: int, connection: WorkerConnection) -> ActorLink:
        """Tells a worker what it is to do."""
        first = self._firsts[index]
        own = {actor: self._actors[actor] for actor in range(index, len(self._actors), len(self._links))}
        lose = self._wake if self.replaces else None

        def open_channel(actor: RemoteActor, connection: WorkerConnection, number: int) -> ActorChannel:
            return ActorChannel(actor, self._codec, connection, number, first=first, lose=lose)

        channels = {each: connection.open_channel(functools.partial(open_channel, own[each])) for each in own}
        starting = connection.open_channel(functools.partial(Channel, notify=self._wake))
        numbers = {each: channel.number for each, channel in channels.items()}
        starting.request(Kind.START, functools.partial(pack_fields, **self._start_fields(numbers, first)))
        return ActorLink(
            index=index,
            connection=connection,
            channels=list(channels.values()),
            starting=starting,
            patience=Patience(self._starting_s),
            is_needed=not self.replaces,
        )

    def _finish(self, link: ActorLink) -> ActorLink:
        link.connection.forget(link.starting)
        self._links[link.index], self._starting[link.index] = link, None
        return link

    def _has_compiled(self, link: ActorLink) -> bool:
        """Returns whether another worker is ready; one that fails leaves its place to a further one."""
        try:
            if link.starting.has_credit and not link.connection.why_lost:
                if not link.patience.left_s():
                    link.connection.lose(_blame(link, self._starting_s))
                return False
            link.starting.answer(Kind.STARTED, timeout_s=_ANSWER_S)
            return True
        except (EnvWorkerError, ConfigError) as error:
            link.connection.lose(str(error))
            self._starting[link.index] = None
            return False

    def _check_company(self) -> None:
        """Raises `TimeoutError` if there has been no worker for too long."""
        if self.present():
            self._alone = None
            return
        self._alone = self._alone or Patience(self._alone_s)
        if not self._alone.left_s():
            raise TimeoutError(
                f"All actor workers have been gone for {self._alone_s:.0f} s: the shorter of remote.join_timeout_s and "
                "nine tenths of actors.timeout_s. The log says why each was lost."
            )


def deal(tasks: Sequence[Task], links: Sequence[ActorLink]) -> list[tuple[ActorLink, ActorChannel, Task]]:
    """Returns which actor makes each rollout: the one whose place it has, or else the one that owes least.

    Args:
        tasks: The rollouts.
        links: The workers that are there, at least one.
    """
    actors = [(link, channel) for link in links for channel in link.channels]
    owed = {channel: channel.num_owed for _, channel in actors}
    dealt = []
    for task in sorted(tasks, key=lambda task: task.rollout):
        own = [pair for pair in actors if pair[1].actor is task.actor]
        link, channel = own[0] if own else min(actors, key=lambda pair: owed[pair[1]])
        owed[channel] += 1
        dealt.append((link, channel, task))
    return dealt


def _blame(link: ActorLink, starting_s: float) -> str:
    return (
        f"{link.connection.name} has not compiled within {starting_s:g} s (remote.join_timeout_s): it was stopped, or "
        "its host is slow."
    )
