"""The coordinator's port: a connection is a stranger's until it has proven that it is of the job.

Strangers are limited, so that they cannot keep the job's own processes out: each has a few seconds and one short line,
there is room for a limited number, and when that is full, one of the host with the most strangers is sent away. An
honest process proves itself at once, and connects again if it was sent away.
"""

import collections
import contextlib
import dataclasses
import errno
import random
import selectors
import socket
import time
from typing import Any

from podrl.runtime.job import wire

MOST_STRANGERS = 512
PROOF_S = 10.0  # Time for a process to prove itself.
_NEWS_S = 10.0  # Between two reports of strangers.
_AT_ONCE = 64  # Connections accepted before existing ones are read.
_FULL_S = 0.1  # Pause before the next attempt when the system gives no more connections.


@dataclasses.dataclass(kw_only=True, eq=False)
class Stranger:
    """A connection that has proven nothing yet."""

    connection: socket.socket
    host: str
    nonce: str
    lines: wire.Lines
    since_s: float


class Entrance:
    """The listening socket and the strangers that have connected to it."""

    def __init__(
        self,
        listener: socket.socket,
        selector: selectors.BaseSelector,
        secret: bytes,
        *,
        role: str = wire.COORDINATOR,
    ):
        """Starts listening.

        Args:
            listener: a listening socket.
            selector: gets the listener, with itself as data, and strangers' connections, each with its `Stranger`.
            secret: the job's secret.
            role: the role that this side proves.
        """
        self.listener = listener
        self._selector = selector
        self._secret = secret
        self._role = role
        self._strangers: dict[Stranger, None] = {}  # In order of arrival.
        self._refused = 0
        self._last = ""
        self._told_s = -_NEWS_S
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ, listener)

    def accept(self) -> None:
        """Accepts waiting connections, up to a limit, and asks each for its proof."""
        for _ in range(_AT_ONCE):
            try:
                connection, address = self.listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):  # The stranger has left again.
                    continue
                if not self._strangers:
                    time.sleep(_FULL_S)
                    return
                self._make_room()
            else:
                self._let_in(connection, str(address[0]))

    def read(self, stranger: Stranger) -> bool:
        """Returns whether a stranger has sent a valid proof; if so, the caller takes over its connection."""
        if stranger not in self._strangers:  # Sent away after its message arrived.
            return False
        try:
            received = stranger.connection.recv(wire.LONGEST_UNPROVEN_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            received = b""
        if not received:
            self._send_away(stranger, "it left without a proof")
            return False
        stranger.lines.add(received)
        try:
            message = stranger.lines.pop()
        except ValueError:
            self._send_away(stranger, "what it said is not podrl's")
            return False
        return message is not None and self._is_proven(stranger, message)

    def send_late_away(self) -> None:
        """Sends away strangers that have not proven themselves in time."""
        while self._strangers and time.monotonic() - next(iter(self._strangers)).since_s > PROOF_S:
            self._send_away(next(iter(self._strangers)), f"no proof within {PROOF_S:.0f} s")

    def take_report(self, *, at_once: bool = False) -> dict[str, Any] | None:
        """Returns a message about connections refused since the last one; None if there are none, or it is too soon."""
        if not self._refused or (time.monotonic() - self._told_s < _NEWS_S and not at_once):
            return None
        self._told_s = time.monotonic()
        refused, self._refused = self._refused, 0
        return {"refused_strangers": refused, "last": self._last}

    def close(self) -> None:
        """Stops listening and closes strangers' connections, which do not count as refused."""
        self._selector.unregister(self.listener)
        self.listener.close()
        for stranger in list(self._strangers):
            self._forget(stranger)
            stranger.connection.close()

    def _let_in(self, connection: socket.socket, host: str) -> None:
        connection.setblocking(False)
        stranger = Stranger(
            connection=connection,
            host=host,
            nonce=wire.make_nonce(),
            lines=wire.Lines(wire.LONGEST_UNPROVEN_BYTES),
            since_s=time.monotonic(),
        )
        self._strangers[stranger] = None
        self._selector.register(connection, selectors.EVENT_READ, stranger)
        if len(self._strangers) > MOST_STRANGERS:
            self._make_room()
        self._send(stranger, nonce=stranger.nonce)

    def _make_room(self) -> None:
        """Sends away a stranger of the host with the most: a random one, so that slow ones have a chance too."""
        counts = collections.Counter(stranger.host for stranger in self._strangers)
        most = max(counts.values())
        host = next(host for host, count in counts.items() if count == most)
        self._send_away(random.choice([each for each in self._strangers if each.host == host]), "too many came")

    def _is_proven(self, stranger: Stranger, message: dict[str, Any]) -> bool:
        nonce = message.get("nonce")
        if not wire.is_nonce(nonce):
            self._send_away(stranger, "what it said is not podrl's")
            return False
        nonces = (stranger.nonce, str(nonce))
        if not wire.is_proof(message.get("proof"), self._secret, wire.process_to(self._role), *nonces):
            self._send(stranger, unproven=True)
            self._send_away(stranger, "it does not have the job's secret")
            return False
        self._forget(stranger)
        self._send(stranger, proof=wire.prove(self._secret, self._role, *nonces))
        stranger.lines.longest_bytes = wire.LONGEST_BYTES
        return True

    def _send_away(self, stranger: Stranger, why: str) -> None:
        self._refused += 1
        self._last = f"{stranger.host}: {why}"
        self._forget(stranger)
        stranger.connection.close()

    def _forget(self, stranger: Stranger) -> None:
        self._selector.unregister(stranger.connection)
        del self._strangers[stranger]

    def _send(self, stranger: Stranger, **message: Any) -> None:
        with contextlib.suppress(OSError):  # A lost connection is noticed when it is read from.
            stranger.connection.sendall(wire.encode_message(**message))
