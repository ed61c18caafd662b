"""The coordinator: a small process beside process 0, where all processes of a job meet and learn who is lost.

It has three tasks. All processes report here before any of them starts JAX's part, so that those that are missing can
be named. Then it runs JAX's coordination service, through which JAX's own client in each process finds the others. And
it keeps one connection to each process while the job lasts: the operating system closes it when a process ends,
however that dies, and the coordinator tells the others.

It is a process of its own because JAX's clients abort, without a word for the user, as soon as the process with the
service is gone; so process 0 can be lost like every other. It ends when the last process has gone.

It answers whoever asks whether it is still there: a process that hears nothing for long takes it for stopped.

It runs as a script, and imports nothing but `jaxlib`. Messages are lines of JSON. From a process:

    {"index": 1, "count": 2, "host": "node2", "job": "SLURM job 12, step 0"}   the first
    {"give_up": 300.0}                    it has waited that many seconds for the others
    {"fail": "text", "exit_code": 1}      it is about to end
    {"stuck": [1]}                        JAX's service gets no heartbeats from these
    {"bye": true}                         it has done its part
    {"there": true}                       is the coordinator still there?

To the processes:

    {"waiting_for": [1]}, {"refused": "text"}, {"gave_up": [1], "after_s": 300.0}    while they meet
    {"hosts": ["node1", "node2"]}                                              all are here, and the service runs
    {"loss": 1, "why": "failed", "text": "text", "exit_code": 1}               the first that was lost, and no other
    {"closed": true}                                                           all have said bye
    {"here": true}                                                             it is
"""

import contextlib
import dataclasses
import errno
import json
import os
import selectors
import signal
import socket
import sys
import time
from typing import Any

STALE_S = 25  # without a heartbeat, a process is stuck. Its client sends one every half of `BEAT_S`.
BEAT_S = 30
KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3}  # A host that is gone is noticed after 14 s.
_HOST_MS = 14_000
SILENT_S = 12.0  # without an answer, the coordinator is stopped. JAX's client aborts its process after 15 s or more.
_SILENT = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH)
_SLOW_S = 600.0  # For those that leave late: JAX's client would abort them as soon as the service is gone.
_STUCK_S = 30.0  # For a process that the others have given up.
_REGISTER_S = 600  # JAX's own limit for its clients to come once all have met; they come at once.


@dataclasses.dataclass(kw_only=True)
class _Member:
    """A connection; `index` is -1 until it has introduced itself."""

    connection: socket.socket
    index: int = -1
    host: str = ""
    unread: bytes = b""
    said_bye: bool = False


class _Coordinator:
    def __init__(self, listener: socket.socket, *, service_address: str, count: int, job: str):
        self._listener = listener
        self._service_address = service_address
        self._service: Any = None
        self._count = count
        self._job = job
        self._members: list[_Member] = []
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._gave_up = False
        self._lost = False
        self._parent = os.getppid()
        self._stuck: set[int] = set()
        self._told_s = float("inf")  # When all were told to leave.

    def run(self) -> None:
        """Until everybody has gone."""
        while self._service is None or self._members:
            for key, _ in self._selector.select(timeout=1.0):
                if key.data is None:
                    self._accept()
                else:
                    self._read(key.data)
            if self._service is None and (self._gave_up or os.getppid() != self._parent):
                return  # If process 0 died before all were here, those that are try again.
            if self._is_over():
                return

    def _is_over(self) -> bool:
        """Whether those that have not left yet are not waited for any longer."""
        patience_s = _SLOW_S if any(member.index not in self._stuck for member in self._members) else _STUCK_S
        return time.monotonic() - self._told_s > patience_s

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        keep_alive(connection)
        connection.setblocking(False)
        member = _Member(connection=connection)
        self._members.append(member)
        self._selector.register(connection, selectors.EVENT_READ, member)

    def _read(self, member: _Member) -> None:
        why = "gone"
        try:
            received = member.connection.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            received = b""
            why = "silent" if error.errno in _SILENT else why
        *lines, member.unread = (member.unread + received).split(b"\n")
        try:
            for line in lines:
                self._take(member, json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError):  # Somebody else's program.
            received = b""
        if not received and member in self._members:
            self._drop(member, why)

    def _take(self, member: _Member, message: dict[str, Any]) -> None:
        if "index" in message:
            self._welcome(member, message)
        elif member.index < 0:
            raise ValueError("a message before the first")
        elif "give_up" in message and self._service is None:
            self._tell(gave_up=self._missing(), after_s=message["give_up"])
            self._gave_up = True
        elif "fail" in message:
            self._lose(member.index, why="failed", text=message["fail"], exit_code=message["exit_code"])
        elif "stuck" in message:
            by_index = {other.index: other for other in self._members}
            for index in message["stuck"]:
                if index in by_index and not by_index[index].said_bye:
                    self._lose(index, why="stuck")
        elif "there" in message:
            _send(member, here=True)
        elif "bye" in message:
            member.said_bye = True
            if all(other.said_bye for other in self._members) and not self._lost:
                self._tell(closed=True)
                self._linger()

    def _welcome(self, member: _Member, message: dict[str, Any]) -> None:
        """Takes a process in, or says why not; with the last one the job begins."""
        index, count, host, job = int(message["index"]), message["count"], str(message["host"]), message["job"]
        known = {other.index: other for other in self._members}
        refusal = ""
        if job != self._job:
            refusal = f"belongs to {self._job or 'a job that was started by flags'}, not to {job or 'one with flags'}"
        elif count != self._count:
            refusal = f"counts {self._count} processes, not {count}"
        elif index in known:
            refusal = f"already has a process {index}, on {known[index].host}; this one is on {host}"
        if refusal:
            _send(member, refused=refusal)
            self._drop(member)
            return
        member.index, member.host = index, host
        missing = self._missing()
        if missing:
            self._tell(waiting_for=missing)
            return
        self._start_service()
        hosts = {other.index: other.host for other in self._members}
        self._tell(hosts=[hosts[index] for index in range(self._count)])

    def _start_service(self) -> None:
        """JAX's service takes over the address."""
        from jaxlib import _jax

        self._selector.unregister(self._listener)
        self._listener.close()
        for stranger in [member for member in self._members if member.index < 0]:
            self._drop(stranger)
        # Recoverable: a lost process is for podrl to tell; otherwise all clients would abort.
        self._service = _jax.get_distributed_runtime_service(
            self._service_address,
            self._count,
            heartbeat_timeout=STALE_S,
            cluster_register_timeout=_REGISTER_S,
            shutdown_timeout=5,
            recoverable=True,
        )

    def _missing(self) -> list[int]:
        present = {member.index for member in self._members}
        return [index for index in range(self._count) if index not in present]

    def _drop(self, member: _Member, why: str = "gone") -> None:
        self._selector.unregister(member.connection)
        member.connection.close()
        self._members.remove(member)
        if member.index >= 0 and self._service is None:
            self._tell(waiting_for=self._missing())
        elif member.index >= 0 and not member.said_bye:
            self._lose(member.index, why=why)

    def _lose(self, index: int, *, why: str, text: str = "", exit_code: int = 1) -> None:
        if why == "stuck":
            self._stuck.add(index)
        if not self._lost:
            self._lost = True
            self._linger()
            self._tell(loss=index, why=why, text=text, exit_code=exit_code)

    def _linger(self) -> None:
        """Waits for the others to leave, but not for ever, and without keeping process 0's output open."""
        self._told_s = time.monotonic()
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)

    def _tell(self, **message: Any) -> None:
        for member in self._members:
            if member.index >= 0:
                _send(member, **message)


def keep_alive(connection: socket.socket) -> None:
    """Lets the operating system notice that the other host is gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Keepalive itself does nothing while something sent is not acknowledged.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _HOST_MS)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _send(member: _Member, **message: Any) -> None:
    with contextlib.suppress(OSError):  # Gone, or stuck: that shows when it is read from.
        member.connection.sendall(json.dumps(message).encode() + b"\n")


def main(arguments: str) -> None:
    """The process's own part of `podrl.meeting.start_coordinator`."""
    # These reach a whole group of processes, of which this one has to outlive the others.
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    options = json.loads(arguments)
    meeting = _Coordinator(socket.socket(fileno=options.pop("listener")), **options)
    meeting.run()
    # Kept until here: JAX's service would wait for calls under way, and complain of clients that died.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
