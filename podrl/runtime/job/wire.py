"""The language of processes and coordinator: lines of JSON, after both sides have proven that they are of the job.

Any program may connect. So a line has a limited length, reading it raises only `ValueError`, and the first lines are a
proof of both sides, by the secret that all processes of a job share and that is never sent:

    to the process:    {"nonce": "<coordinator's>"}
    from the process:  {"nonce": "<its own>", "proof": HMAC(secret, "process", both nonces)}
    to the process:    {"proof": HMAC(secret, "coordinator", both nonces)}, or {"unproven": true}

Nonces are fresh, so an overheard proof proves nothing later; the roles differ, so a received proof cannot be sent
back. Nothing is encrypted: an attacker who can change packets in transit can take over a connection.

Sources: HMAC, RFC 2104, with SHA-256; challenge and response of both sides, ISO/IEC 9798-4.
"""

from collections.abc import Mapping
import hashlib
import hmac
import json
import math
import secrets
import socket
from typing import Any, NoReturn

PROCESS, COORDINATOR = "podrl process", "podrl coordinator"  # Roles that a proof names; a `listener` is one too.
LONGEST_BYTES = 1 << 16  # The longest valid line.
LONGEST_UNPROVEN_BYTES = 1 << 10
KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3}  # A lost host is noticed after 14 s.
_HOST_MS = 14_000
_NONCE_BYTES = 32
_OPENING = ord("{")


class Lines:
    """Splits a connection's bytes into messages.

    Attributes:
        longest_bytes: bytes of the longest valid line.
    """

    def __init__(self, longest_bytes: int):
        """Starts without data; lines may have up to `longest_bytes`."""
        self.longest_bytes = longest_bytes
        self._unread = bytearray()

    def add(self, received: bytes) -> None:
        """Adds received bytes."""
        self._unread += received

    def pop(self) -> dict[str, Any] | None:
        """Returns the next message; None if it is not complete yet.

        Raises:
            ValueError: if the line is too long, or no JSON object.
        """
        if self._unread and self._unread[0] != _OPENING:  # Another program may never end its line.
            raise ValueError("no object")
        end = self._unread.find(b"\n")
        if max(end, len(self._unread) if end < 0 else 0) > self.longest_bytes:
            raise ValueError(f"a line of more than {self.longest_bytes} bytes")
        if end < 0:
            return None
        line = bytes(self._unread[:end])
        del self._unread[: end + 1]
        return parse_message(line)


def parse_message(line: bytes) -> dict[str, Any]:
    """Returns the message in a line.

    Raises:
        ValueError: if the line is no JSON object, whatever else it is.
    """
    try:
        message = json.loads(line, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(message, dict):
        raise ValueError("no object")
    return message


def encode_message(**message: Any) -> bytes:
    """Returns a message as a line."""
    return json.dumps(message).encode() + b"\n"


def is_whole(number: object, end: int) -> bool:
    """Returns whether a message's value is a whole number from 0 to below `end`."""
    return type(number) is int and 0 <= number < end


def whole(number: Any, end: int) -> int:
    """Returns a message's value that `is_whole`.

    Raises:
        ValueError: if it is not.
    """
    if not is_whole(number, end):
        raise ValueError("not such a number")
    return int(number)


def refusal(message: Mapping[str, Any], *, job: str, count: int, hosts: Mapping[int, str], again: bool) -> str:
    """Returns why a process that introduces itself is not admitted; an empty string if it is.

    Args:
        message: The process's first message.
        job: The coordinator's job.
        count: The number of processes of that job.
        hosts: The hosts of the processes that were admitted before, by index.
        again: Whether this process was admitted before.
    """
    index = message["index"]
    if message["job"] != job:
        return f"belongs to {job or 'a job that was started by flags'}, not to {message['job'] or 'one with flags'}"
    if message["count"] != count:
        return f"counts {count} processes, not {message['count']}"
    if again or not is_whole(index, count):
        return f"has processes 0 to {count - 1}, each once, and not a process {index}"
    if index in hosts:
        return f"already has a process {index}, on {hosts[index]}; this one is on {message['host']}"
    return ""


def seconds(number: Any) -> float:
    """Returns a message's value as seconds.

    Raises:
        ValueError: if it is no finite number.
    """
    if type(number) not in (int, float):
        raise ValueError("no number")
    try:
        value = float(number)
    except OverflowError:
        raise ValueError("too large a number") from None
    if not math.isfinite(value):
        raise ValueError("no finite number")
    return value


def listener(index: int) -> str:
    """Returns the role of a process to which the others connect, to check that they reach it."""
    return f"podrl listener {index}"


def process_to(role: str) -> str:
    """Returns the role of a process that connects to one in `role`; its proof is valid nowhere else."""
    return PROCESS if role == COORDINATOR else f"{PROCESS} to {role}"


def make_nonce() -> str:
    """Returns a fresh nonce, which the other side's proof has to include."""
    return secrets.token_hex(_NONCE_BYTES)


def prove(secret: bytes, role: str, coordinators_nonce: str, processes_nonce: str) -> str:
    """Returns the proof that the side in this role knows the secret."""
    text = "\n".join((role, coordinators_nonce, processes_nonce))
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()


def is_proof(found: object, secret: bytes, role: str, coordinators_nonce: str, processes_nonce: str) -> bool:
    """Returns whether `found`, of any type, is that proof; the time that this takes reveals nothing."""
    expected = prove(secret, role, coordinators_nonce, processes_nonce)
    return isinstance(found, str) and hmac.compare_digest(found.encode(errors="replace"), expected.encode())


def is_nonce(found: object) -> bool:
    """Returns whether a message's value has the form of `make_nonce`'s result."""
    return isinstance(found, str) and len(found) == 2 * _NONCE_BYTES and found.isascii() and found.isalnum()


def keep_alive(connection: socket.socket) -> None:
    """Makes the operating system notice a lost host."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Keepalive alone has no effect while sent data is not acknowledged.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _HOST_MS)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
