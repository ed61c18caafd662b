"""The coordinator's port: who connects is a stranger until it has proven that it is of the job.

Strangers are kept short, so that they cannot keep the job's own processes out: each has a few seconds and one short
line, there is room for a limited number of them, and when that is full one has to go of the host that has sent the
most. An honest process proves itself at once, and comes again if it was sent away.
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
PROOF_S = 10.0  # For a process to prove itself.
_NEWS_S = 10.0  # Between two reports of strangers.
_AT_ONCE = 64  # Connections that are accepted before those that are there are read.
_FULL_S = 0.1  # Before the next attempt where the system gives no more connections.


@dataclasses.dataclass(kw_only=True, eq=False)
class Stranger:
    """A connection that has proven nothing yet."""

    connection: socket.socket
    host: str
    nonce: str
    lines: wire.Lines
    since_s: float


class Entrance:
    """The listening socket, and the strangers that have come to it."""

    def __init__(
        self,
        listener: socket.socket,
        selector: selectors.BaseSelector,
        secret: bytes,
        *,
        role: str = wire.COORDINATOR,
    ):
        """Listens.

        Args:
            listener: a listening socket.
            selector: gets the listener, with itself as data, and strangers' connections, each with its `Stranger`.
            secret: of the job.
            role: which this side proves.
        """
        self.listener = listener
        self._selector = selector
        self._secret = secret
        self._role = role
        self._strangers: dict[Stranger, None] = {}  # In the order in which they came.
        self._refused = 0
        self._last = ""
        self._told_s = -_NEWS_S
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ, listener)

    def accept(self) -> None:
        """Lets those in who wait, up to some, and asks each for its proof."""
        for _ in range(_AT_ONCE):
            try:
                connection, address = self.listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):  # It has gone again.
                    continue
                if not self._strangers:
                    time.sleep(_FULL_S)
                    return
                self._make_room()
            else:
                self._let_in(connection, str(address[0]))

    def read(self, stranger: Stranger) -> bool:
        """Whether what a stranger says proves that it is of the job; if so, its connection is the caller's."""
        if stranger not in self._strangers:  # Sent away since it was heard.
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
        """Sends those away who have not proven themselves in time."""
        while self._strangers and time.monotonic() - next(iter(self._strangers)).since_s > PROOF_S:
            self._send_away(next(iter(self._strangers)), f"no proof within {PROOF_S:.0f} s")

    def take_report(self, *, at_once: bool = False) -> dict[str, Any] | None:
        """A message on those that were refused since the last one; None if there were none, or it is too soon."""
        if not self._refused or (time.monotonic() - self._told_s < _NEWS_S and not at_once):
            return None
        self._told_s = time.monotonic()
        refused, self._refused = self._refused, 0
        return {"refused_strangers": refused, "last": self._last}

    def close(self) -> None:
        """Listens no longer, and sends all strangers away; they are not to blame."""
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
        """Sends one away of the host that has the most here: any of them, so that the slow have a chance, too."""
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
        with contextlib.suppress(OSError):  # Gone, which shows when it is read from.
            stranger.connection.sendall(wire.encode_message(**message))
