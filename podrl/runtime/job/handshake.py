"""The connecting side of the proof with which every connection begins: see `wire` and `entrance`."""

import socket

from podrl.runtime.job import wire
from podrl.runtime.waiting import Patience

_LONGEST_BYTES = 1 << 24  # Longest line of a coordinator that has proven itself: it may list thousands of hosts.


class UnprovenError(Exception):
    """The other side has another secret, or says that this side has."""


def prove_both(
    connection: socket.socket, secret: bytes, limit_s: float, *, whose: str = wire.COORDINATOR
) -> wire.Lines:
    """Proves to the coordinator that this process is of its job, and verifies the coordinator's proof.

    Args:
        connection: a new connection, with a timeout of about a second.
        secret: the job's secret.
        limit_s: seconds that the coordinator may take.
        whose: the role that the other side has to prove; by default the coordinator's.

    Returns:
        The lines received after the proof.

    Raises:
        UnprovenError: if the secrets or the roles differ.
        ValueError: if the other side is no coordinator.
        TimeoutError: if there is no answer in time.
        OSError: if the connection ends.
    """
    lines, patience = wire.Lines(wire.LONGEST_UNPROVEN_BYTES), Patience(limit_s)
    theirs, own = _next(connection, lines, patience).get("nonce"), wire.make_nonce()
    if not wire.is_nonce(theirs):
        raise ValueError("no nonce")
    nonces = (str(theirs), own)
    connection.sendall(wire.encode_message(nonce=own, proof=wire.prove(secret, wire.process_to(whose), *nonces)))
    answer = _next(connection, lines, patience)
    if not wire.is_proof(answer.get("proof"), secret, whose, *nonces):
        raise UnprovenError
    lines.longest_bytes = _LONGEST_BYTES
    return lines


def _next(connection: socket.socket, lines: wire.Lines, patience: Patience) -> dict[str, object]:
    while (message := lines.pop()) is None:
        if not patience.left_s():  # Also with a sender of single bytes.
            raise TimeoutError("no whole line in time")
        try:
            received = connection.recv(wire.LONGEST_UNPROVEN_BYTES)
        except TimeoutError:
            continue
        if not received:
            raise ConnectionError("it ended")
        lines.add(received)
    return message
