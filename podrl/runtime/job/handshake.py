"""The side of a process that connects, of the proof with which every connection begins: see `wire` and `entrance`."""

import socket

from podrl.runtime.job import wire
from podrl.runtime.waiting import Patience

_LONGEST_BYTES = 1 << 24  # Of a line by a coordinator that has proven itself: it may list thousands of hosts.


class UnprovenError(Exception):
    """The other side has another secret, or says that this one has."""


def prove_both(
    connection: socket.socket, secret: bytes, limit_s: float, *, whose: str = wire.COORDINATOR
) -> wire.Lines:
    """Proves to the coordinator that this process is of its job, and has it prove the same.

    Args:
        connection: a new one, with a timeout of a second or so.
        secret: of the job.
        limit_s: how long the coordinator may take.
        whose: the role that the other side is to prove, if it is not the coordinator.

    Returns:
        What else the connection has brought.

    Raises:
        UnprovenError: if the secrets differ, or the roles.
        ValueError: if it is no coordinator that answers.
        TimeoutError: if none answers in time.
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
        if not patience.left_s():  # Also of one that sends byte by byte.
            raise TimeoutError("no whole line in time")
        try:
            received = connection.recv(wire.LONGEST_UNPROVEN_BYTES)
        except TimeoutError:
            continue
        if not received:
            raise ConnectionError("it ended")
        lines.add(received)
    return message
