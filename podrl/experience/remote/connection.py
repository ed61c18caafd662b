"""One environment worker as the learner's process sees it: its channels, their credits, and its loss.

Messages arrive in a thread of the server's and are taken by actor threads. Every wait has a limit, and every error
names the worker.
"""

from collections.abc import Callable
import queue
import threading
from typing import Any, Protocol

from podrl.config.config import ConfigError
from podrl.experience.remote.messages import Head, Kind, pack_fields, read_fields, read_head
from podrl.experience.remote.traffic import Traffic
from podrl.runtime.waiting import Patience, Stopped

_SLICE_S = 1.0
_ANSWERS = (Kind.STEP, Kind.CLOSED, Kind.FAILED, Kind.STARTED, Kind.ROLLOUT, Kind.PART_OF_ROLLOUT, Kind.PULL)


class EnvWorkerError(RuntimeError):
    """An environment worker failed or was lost; the message names it."""


class AnyChannel(Protocol):
    """What a connection delivers to.

    Attributes:
        number: Its number on the connection.
    """

    number: int

    def take_credit(self, number: int) -> bool:
        """Returns whether a message with this number is owed."""

    def put(self, message: bytes | None) -> None:
        """Takes such a message; None once there will be no more."""


class WorkerConnection:
    """The stream of messages to and from one worker.

    Attributes:
        name: the worker's name for messages, such as `environment worker 0 (node2, process 4711)`.
        why_lost: why it was lost; empty if the learner has ended it, None as long as it is there.
    """

    def __init__(self, name: str, send: Callable[[bytes | None], None], cancel: Callable[[], Any], traffic: Traffic):
        """Takes over a stream whose worker has been admitted.

        Args:
            name: the worker's name.
            send: queues a message; None ends the stream in good order.
            cancel: ends the stream at once.
            traffic: counts messages.
        """
        self.name = name
        self._send, self._cancel, self._traffic = send, cancel, traffic
        self._lock = threading.Lock()
        self._channels: dict[int, AnyChannel] = {}
        self._left: set[int] = set()  # Numbers of channels that nothing reads any more, though an answer is owed.
        self._opened = 0
        self.why_lost: str | None = None

    def open_channel(self, make: "Callable[[WorkerConnection, int], AnyChannel] | None" = None) -> Any:
        """Returns a new channel, for one pool or one actor.

        Args:
            make: (connection, number) -> the channel; by default a `Channel`.

        Raises:
            EnvWorkerError: if the worker was lost.
            Stopped: if the learner has ended the connection.
        """
        self.check()
        with self._lock:
            self._opened += 1
            channel = (make or Channel)(self, self._opened)
            self._channels[channel.number] = channel
        self.check()  # It may have been lost meanwhile, without a word to the new channel.
        return channel

    def send(self, message: bytes) -> None:
        """Queues a message."""
        self.check()
        self._traffic.send(read_head(message).kind, len(message))
        self._send(message)

    def deliver(self, message: bytes) -> None:
        """Passes a message from the worker to the channel that has asked for it; none takes those that come too late.

        Raises:
            ValueError: if no channel has.
        """
        head = read_head(message)
        with self._lock:
            channel = self._channels.get(head.channel)
            if head.kind not in _ANSWERS or channel is None or not channel.take_credit(head.number):
                raise ValueError(f"a message that nothing asked for ({head.kind.name} {head.number})")
            is_late = head.channel in self._left
            if is_late:
                self._left.discard(head.channel)
                del self._channels[head.channel]
        self._traffic.receive(head.kind, len(message))
        if not is_late:
            channel.put(message)

    def forget(self, channel: "Channel") -> None:
        """Ends a channel, whose pool was closed; an answer that it is still owed may come, and is dropped."""
        with self._lock:
            if channel.has_credit:
                self._left.add(channel.number)
            else:
                self._channels.pop(channel.number, None)

    def lose(self, why: str) -> None:
        """Ends the connection at once, and every wait for it with an error that says why."""
        if self._end(why):
            self._cancel()

    def end(self, code: int) -> None:
        """Tells the worker that the run has ended with an exit code, and ends every wait for it."""
        if self._end(""):
            self._send(pack_fields(Head(Kind.END), code=code))
            self._send(None)

    def check(self) -> None:
        """Raises unless the worker is there."""
        if self.why_lost:
            raise EnvWorkerError(f"{self.name} was lost: {self.why_lost}")
        if self.why_lost is not None:
            raise Stopped

    def _end(self, why: str) -> bool:
        """Returns whether the connection had not ended before."""
        with self._lock:
            if self.why_lost is not None:
                return False
            self.why_lost = why
            channels = list(self._channels.values())
        for channel in channels:
            channel.put(None)
        return True


class Channel:
    """Requests and answers of one pool, one at a time.

    Attributes:
        connection: the worker's.
        number: its number on the connection.
        has_credit: whether the worker owes an answer.
    """

    def __init__(self, connection: WorkerConnection, number: int, notify: Callable[[], None] = lambda: None):
        """Starts without a request; `notify` is called when an answer has come, or none will."""
        self.connection, self._notify = connection, notify
        self.number = number
        self._answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._requests = 0
        self.has_credit = False

    def request(self, kind: Kind, make: Callable[[Head], bytes]) -> None:
        """Sends a request, which is one credit for one answer.

        Args:
            kind: Its kind.
            make: (head) -> the message.
        """
        self._requests += 1
        message = make(Head(kind, self.number, self._requests))
        self.has_credit = True
        self.connection.send(message)

    def take_credit(self, number: int) -> bool:
        """Returns whether an answer with this number is owed; it is not any more."""
        had, self.has_credit = self.has_credit, False
        return had and number == self._requests

    def put(self, message: bytes | None) -> None:
        """Adds an answer; None ends all waits."""
        self._answers.put(message)
        self._notify()

    def answer(self, expected: Kind, *, timeout_s: float, gives_up: bool = True) -> bytes:
        """Waits for the answer to the request.

        Args:
            expected: its kind.
            timeout_s: longest wait in seconds, `remote.timeout_s`.
            gives_up: whether a worker that does not answer in time is given up.

        Raises:
            EnvWorkerError: if the worker failed or was lost.
            ConfigError: if it found a mistake of the user's.
            TimeoutError: if it does not answer in time.
            Stopped: if the learner has ended the connection.
        """
        patience = Patience(timeout_s)
        while True:
            try:
                message = self._answers.get(timeout=min(left_s := patience.left_s(), _SLICE_S))
                break
            except queue.Empty:
                self.connection.check()
                if not left_s:
                    if gives_up:
                        self.connection.lose(f"it did not answer within {timeout_s:g} s")
                    raise TimeoutError(
                        f"{self.connection.name} has not answered for {timeout_s:g} s: it was stopped, or one of its "
                        "environments hangs. If they can take that long, raise remote.timeout_s."
                    ) from None
        if message is None:
            self.connection.check()
            raise Stopped
        kind = read_head(message).kind
        if kind == Kind.FAILED:
            self._raise(read_fields(message))
        if kind != expected:
            self.connection.lose(f"it answered {kind.name} instead of {expected.name}")
            self.connection.check()
        return message

    def _raise(self, fields: dict[str, Any]) -> None:
        text = str(fields.get("text"))[:2000]
        if fields.get("is_mistake"):
            raise ConfigError(f"{self.connection.name}: {text}")
        raise EnvWorkerError(f"{self.connection.name} failed: {text}")
