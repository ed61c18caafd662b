"""The coordinator: a small process beside process 0, where all processes of a job meet and learn who is lost.

It has three tasks. All processes report here before any of them starts JAX's part, so that those that are missing can
be named. Then it runs JAX's coordination service, through which JAX's own client in each process finds the others. And
it keeps one connection to each process while the job lasts: the operating system closes it when a process ends,
however that dies, and the coordinator tells the others.

It is a process of its own because JAX's clients abort, without a word for the user, as soon as the process with the
service is gone; so process 0 can be lost like every other. It ends when the last process has gone.

It answers a process that asks whether it is still there: one that hears nothing for long takes it for stopped.
Only who has proven to know the job's secret (`podrl.runtime.job.entrance`, `podrl.runtime.job.wire`) is heard. From a
process, after its proof:

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

STALE_S = 40  # without a heartbeat, a process is stuck, and JAX aborts it. One without a CPU lasts for 25 s or more.
HEARTBEAT_S = (
    30  # A heartbeat is sent every half of it. JAX aborts a process if the service does not answer for as long.
)
SILENT_S = 12.0  # Without an answer, the coordinator is stopped: found out before JAX aborts anything.
_SILENT = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH)
_SLOW_S = 600.0  # For those that leave late: JAX's client would abort them as soon as the service is gone.
_STUCK_S = 30.0  # For a process that the others have given up.


@dataclasses.dataclass(kw_only=True, eq=False)
class _Member:
    """A process of the job; `index` is -1 until it has said which."""

    connection: socket.socket
    lines: wire.Lines
    index: int = -1
    host: str = ""
    tls: str = mtls.NONE
    said_bye: bool = False


class Coordinator:
    """Where the processes of one job meet; `podrl.runtime.job.coordinator_process` runs it."""

    def __init__(
        self, listener: socket.socket, *, service_address: str, count: int, job: str, parent: int, secret: bytes
    ):
        """Takes over a listening socket.

        Args:
            listener: that socket.
            service_address: where JAX's service is to listen once all are here: the listener's.
            count: of the processes.
            job: which one this is, for people.
            parent: process 0's number, which may be gone before this one has begun.
            secret: that all of its processes know.
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
        """Until everybody has gone."""
        while (self._service is None or self._members) and not self._is_over():
            for key, _ in self._selector.select(timeout=1.0):
                if isinstance(key.data, _Member):
                    self._read(key.data)
                elif self._service is None:
                    self._greet(key.data)
            if self._service is None:
                if self._gave_up or os.getppid() != self._parent:
                    return  # If process 0 died before all were here, those that are try again.
                self._entrance.send_late_away()
                self._report_strangers()

    def _is_over(self) -> bool:
        """Whether those that have not left yet are not waited for any longer."""
        patience_s = _SLOW_S if any(member.index not in self._stuck for member in self._members) else _STUCK_S
        return time.monotonic() - self._told_s > patience_s

    def _greet(self, whom: socket.socket | Stranger) -> None:
        """Lets the next stranger in, or makes one a member who has proven to be of the job."""
        if not isinstance(whom, Stranger):
            self._entrance.accept()
        elif self._entrance.read(whom):
            wire.keep_alive(whom.connection)
            member = _Member(connection=whom.connection, lines=whom.lines)
            self._members.append(member)
            self._selector.register(whom.connection, selectors.EVENT_READ, member)

    def _report_strangers(self, *, at_once: bool = False) -> None:
        """Tells process 0, which has the log."""
        for member in self._members:
            if member.index == 0 and (report := self._entrance.take_report(at_once=at_once)):
                _send(member, **report)

    def _read(self, member: _Member) -> None:
        if member not in self._members:  # Dropped since it was heard.
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
        except (ValueError, TypeError, KeyError, RecursionError):  # Another version of podrl's, or damage.
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
        """Takes a process in, or says why not; with the last one the job begins."""
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
        """JAX's service takes over the address; if it cannot, all are told, and the job ends."""
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
        """Waits for the others to leave, but not for ever, and without keeping process 0's output open."""
        self._told_s = time.monotonic()
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)

    def _tell(self, **message: Any) -> None:
        for member in self._members:
            if member.index >= 0:
                _send(member, **message)


def _send(member: _Member, **message: Any) -> None:
    with contextlib.suppress(OSError):  # Gone, or stuck: that shows when it is read from.
        member.connection.sendall(wire.encode_message(**message))
