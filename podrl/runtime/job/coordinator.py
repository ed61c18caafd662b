"""The coordinator: a small process beside process 0, where all processes of a job meet and learn of lost ones.

It has three tasks. All processes report here before any of them starts JAX's part, so that missing processes can be
named. Then it runs JAX's coordination service, through which JAX's own client in each process finds the others. And it
keeps one connection to each process while the job lasts: the operating system closes it when a process ends, however
that happens, and the coordinator tells the others.

It is a separate process because JAX's clients abort, without a message to the user, as soon as the process with the
service ends; so process 0 can be lost like any other. It ends when the last process has left. It answers a process
that asks whether it still runs: a process without an answer for long treats it as stopped.

Messages count only after a proof of the job's secret (`podrl.runtime.job.entrance`, `podrl.runtime.job.wire`). A
process sends, after its proof:

    {"index": 1, "count": 2, "host": "node2", "job": "SLURM job 12, step 0", "tls": "own"}     the first
    {"give_up": 300.0}                    it has waited that many seconds for the others
    {"fail": "text", "exit_code": 1}      it is about to end
    {"stuck": [1]}                        JAX's service gets no heartbeats from these
    {"bye": true}                         it has done its part
    {"there": true}                       is the coordinator still there?

To the processes:

    {"waiting_for": [1]}, {"refused": "text"}, {"gave_up": [1], "after_s": 300.0}    while they meet
    {"mistaken": "text"}                                                       the user has to change something
    {"failed": "text"}                                                         JAX's service does not start
    {"refused_strangers": 3, "last": "10.0.0.7: text"}                         to process 0, while they meet
    {"hosts": ["node1", "node2"], "tls": "own"}                                all are here, and the service runs
    {"loss": 1, "why": "failed", "text": "text", "exit_code": 1}               the first that was lost, and no other
    {"closed": true}                                                           all have said bye
    {"here": true}                                                             it is
"""

import contextlib
import dataclasses
import errno
import os
import selectors
import socket
import time
from typing import Any

from podrl.mistakes import ConfigError
from podrl.runtime.job import mtls, wire
from podrl.runtime.job.entrance import Entrance, Stranger
from podrl.runtime.job.own_credentials import make_credentials
from podrl.runtime.job.time_limits import STALE_S

_SILENT = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH)
_SLOW_S = 600.0  # For processes that leave late: JAX's client would abort them as soon as the service ends.
_STUCK_S = 30.0  # For a process that the others have given up.


@dataclasses.dataclass(kw_only=True, eq=False)
class _Member:
    """A process of the job; `index` is -1 until it has introduced itself."""

    connection: socket.socket
    lines: wire.Lines
    index: int = -1
    host: str = ""
    tls: str = mtls.NONE
    said_bye: bool = False


class Coordinator:
    """The place where the processes of one job meet; `podrl.runtime.job.coordinator_process` runs it."""

    def __init__(
        self, listener: socket.socket, *, service_address: str, count: int, job: str, parent: int, secret: bytes
    ):
        """Takes over a listening socket.

        Args:
            listener: the listening socket.
            service_address: the listener's address, where JAX's service listens once all processes have met.
            count: number of processes in the job.
            job: the job's name, for people.
            parent: process number of process 0, which may have ended before this process begins.
            secret: the secret that all of the job's processes know.
        """
        self._service_address = service_address
        self._service: Any = None
        self._count = count
        self._job = job
        self._members: list[_Member] = []
        self._secret = secret
        self._selector = selectors.DefaultSelector()
        self._entrance = Entrance(listener, self._selector, secret)
        self._gave_up = False
        self._lost = False
        self._parent = parent
        self._stuck: set[int] = set()
        self._told_s = float("inf")  # When all were told to leave.

    def run(self) -> None:
        """Runs until all processes have left."""
        while (self._service is None or self._members) and not self._is_over():
            for key, _ in self._selector.select(timeout=1.0):
                if isinstance(key.data, _Member):
                    self._read(key.data)
                elif self._service is None:
                    self._greet(key.data)
            if self._service is None:
                if self._gave_up or os.getppid() != self._parent:
                    return  # Process 0 ended before all had met; the other processes try again.
                self._entrance.send_late_away()
                self._report_strangers()

    def _is_over(self) -> bool:
        """Returns whether the remaining processes have had enough time to leave."""
        patience_s = _SLOW_S if any(member.index not in self._stuck for member in self._members) else _STUCK_S
        return time.monotonic() - self._told_s > patience_s

    def _greet(self, whom: socket.socket | Stranger) -> None:
        """Admits the next stranger, or makes a stranger with a valid proof a member."""
        if not isinstance(whom, Stranger):
            self._entrance.accept()
        elif self._entrance.read(whom):
            wire.keep_alive(whom.connection)
            member = _Member(connection=whom.connection, lines=whom.lines)
            self._members.append(member)
            self._selector.register(whom.connection, selectors.EVENT_READ, member)

    def _report_strangers(self, *, at_once: bool = False) -> None:
        """Reports refused connections to process 0, which has the log."""
        for member in self._members:
            if member.index == 0 and (report := self._entrance.take_report(at_once=at_once)):
                _send(member, **report)

    def _read(self, member: _Member) -> None:
        if member not in self._members:  # Dropped after its message arrived.
            return
        why = "gone"
        try:
            received = member.connection.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            received = b""
            why = "silent" if error.errno in _SILENT else why
        member.lines.add(received)
        try:
            while member in self._members and (message := member.lines.pop()) is not None:
                self._take(member, message)
        except (ValueError, TypeError, KeyError, RecursionError):  # From another version of podrl, or damaged.
            received = b""
        if not received and member in self._members:
            self._drop(member, why)

    def _take(self, member: _Member, message: dict[str, Any]) -> None:
        if "index" in message:
            self._welcome(member, message)
        elif member.index < 0:
            raise ValueError("a message before the first")
        elif "give_up" in message and self._service is None:
            self._tell(gave_up=self._missing(), after_s=wire.seconds(message["give_up"]))
            self._gave_up = True
        elif "fail" in message:
            exit_code = wire.whole(message["exit_code"], 256)
            self._lose(member.index, why="failed", text=str(message["fail"]), exit_code=exit_code)
        elif "stuck" in message:
            by_index = {other.index: other for other in self._members}
            for index in [wire.whole(index, self._count) for index in list(message["stuck"])]:
                if index in by_index and not by_index[index].said_bye:
                    self._lose(index, why="stuck")
        elif "there" in message:
            _send(member, here=True)
        elif "bye" in message:
            member.said_bye = True
            if all(other.said_bye for other in self._members) and not self._lost:
                self._tell(closed=True)
                self._limit_wait()

    def _welcome(self, member: _Member, message: dict[str, Any]) -> None:
        """Admits a process or tells it the reason for a refusal; the last admission begins the job."""
        index, host, tls = message["index"], str(message["host"]), str(message.get("tls", mtls.NONE))
        known = {other.index: other for other in self._members if other.index >= 0}
        hosts = {other: known[other].host for other in known}
        if refusal := wire.refusal(message, job=self._job, count=self._count, hosts=hosts, again=member.index >= 0):
            _send(member, refused=refusal)
            self._drop(member)
            return
        member.index, member.host, member.tls = index, host, tls
        if mistake := mtls.differ(index, tls, {other: known[other].tls for other in known}):
            self._tell(mistaken=mistake)
            self._gave_up = True
            return
        if missing := self._missing():
            self._tell(waiting_for=missing)
            return
        self._report_strangers(at_once=True)
        agreed = mtls.agree([other.tls for other in self._members if other.index >= 0])
        if self._start_service(agreed):
            hosts[index] = host
            self._tell(hosts=[hosts[index] for index in range(self._count)], tls=agreed)

    def _start_service(self, tls: str) -> bool:
        """Starts JAX's service at the listener's address; if that fails, all are told, and the job ends."""
        for stranger in [member for member in self._members if member.index < 0]:
            self._drop(stranger)
        from podrl.runtime.job import jax_service

        where = (self._entrance.listener, self._service_address)
        try:
            own = make_credentials(tls, os.environ, self._secret)
            self._service = jax_service.start_service(*where, self._count, STALE_S, own.arguments() if own else None)
        except (ConfigError, OSError) as error:
            self._tell(**{"mistaken" if isinstance(error, ConfigError) else "failed": str(error)})
            self._gave_up = True
        self._entrance.close()
        return not self._gave_up

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
            self._limit_wait()
            self._tell(loss=index, why=why, text=text, exit_code=exit_code)

    def _limit_wait(self) -> None:
        """Limits how long the others may take to leave, and stops keeping process 0's output open."""
        self._told_s = time.monotonic()
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)

    def _tell(self, **message: Any) -> None:
        for member in self._members:
            if member.index >= 0:
                _send(member, **message)


def _send(member: _Member, **message: Any) -> None:
    with contextlib.suppress(OSError):  # A lost or stuck process is noticed when it is read from.
        member.connection.sendall(wire.encode_message(**message))
