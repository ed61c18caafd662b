"""How a process meets the others of its job, and the connection to the coordinator that it keeps: see `coordinator`."""

from collections.abc import Iterator
import contextlib
import errno
import json
import os
from pathlib import Path
import socket
import subprocess
import sys
import threading
import time
from typing import Any

from absl import logging

from podrl import coordinator
from podrl.absence import did_not_come, has_no_coordinator, has_silent_coordinator, list_processes
from podrl.config import ConfigError
from podrl.membership import Membership, is_loopback, split_address
from podrl.waiting import Patience

_PORT_S = 15.0  # A job that has just ended frees its port within this time.
_RETRY_S = 0.25
_SLICE_S = 1.0
_ANSWER_S = 5.0
_NEWS_S = 5.0  # Until the first line about who is missing; each further one waits twice as long.
_LONGEST_NEWS_S = 60.0
_NAME_S = 15.0  # A name that nobody knows for so long is a mistake.


def start_coordinator(membership: Membership) -> subprocess.Popen[bytes]:
    """Starts the coordinator, a process of its own that outlives this one until the others have left.

    Raises:
        ConfigError: if its port is taken.
    """
    address = membership.coordinator or ""
    host, port = split_address(address)
    listener = _listen(host if is_loopback(address) else "", port)
    name = listener.getsockname()[0]
    options = {
        "listener": listener.fileno(),
        "service_address": f"[{name}]:{port}" if ":" in name else f"{name}:{port}",
        "count": membership.process_count,
        "job": membership.job,
    }
    try:
        return subprocess.Popen(
            [sys.executable, "-P", str(Path(coordinator.__file__).resolve()), json.dumps(options)],
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
    finally:
        listener.close()


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket of the same port as JAX's service later; that alone would share a port with another job's."""
    patience = Patience(_PORT_S)
    while True:
        try:
            if host or not socket.has_dualstack_ipv6():
                address = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM)[0]
                return socket.create_server(address[4][:2], family=address[0], backlog=1024)
            return socket.create_server(("", port), family=socket.AF_INET6, backlog=1024, dualstack_ipv6=True)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not patience.left_s():
                reason = f"fails: {error}"
                if error.errno == errno.EADDRINUSE:
                    reason = (
                        "is in use by another program, or by a job that ended less than 10 minutes ago, one of whose "
                        "processes has not left yet"
                    )
                raise ConfigError(
                    f"Port {port} on this host, where the processes of this job are to meet, {reason}. "
                    "Choose another port: --coordinator=HOST:PORT, the same for all processes."
                ) from None
        time.sleep(_RETRY_S)


class Line:
    """A process's connection to the coordinator."""

    def __init__(self, membership: Membership, timeout_s: float):
        """Connects, and waits until all processes have met.

        Args:
            membership: of several processes.
            timeout_s: for how long to wait.

        Raises:
            TimeoutError: if some do not come; says which.
            ConfigError: if this process cannot be one of them.
        """
        self._membership = membership
        self._patience = Patience(timeout_s)
        self._timeout_s = timeout_s
        self._sending = threading.Lock()
        self._missing: list[int] = []
        self._unread = b""
        self._silence = Patience(coordinator.SILENT_S)
        self._news_s, self._pause_s = time.monotonic() + _NEWS_S, _NEWS_S
        self.hosts = self._meet()

    def say(self, **message: Any) -> None:
        """Tells the coordinator; in vain if that is gone."""
        with self._sending, contextlib.suppress(OSError):  # The thread that listens hears of it.
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def messages(self) -> Iterator[dict[str, Any]]:
        """What the coordinator says, until the connection ends: one of them, or its host, has gone.

        Yields an empty message in every second without news, in which it also asks whether somebody is there.
        """
        self._silence = Patience(coordinator.SILENT_S)
        while True:
            while b"\n" in self._unread:  # One by one: who listens may change after each of them.
                line, _, self._unread = self._unread.partition(b"\n")
                yield json.loads(line)
            try:
                received = self._connection.recv(65536)
            except TimeoutError as error:
                if error.errno == errno.ETIMEDOUT:
                    return  # The operating system's own: the host does not answer.
                self._silence.left_s()
                self.say(there=True)
                yield {}
                continue
            except OSError:
                return
            if not received:
                return
            self._silence = Patience(coordinator.SILENT_S)
            self._unread += received

    def is_silent(self) -> bool:
        """Whether the coordinator has not answered for `coordinator.SILENT_S`, though the connection is there."""
        return not self._silence.left_s()

    def close(self) -> None:
        """Ends the connection."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _meet(self) -> tuple[str, ...]:
        """Tries until all are here; returns their hosts."""
        address = self._membership.coordinator or ""
        naming = Patience(_NAME_S)
        while True:
            reason = "it ended"
            try:
                self._connection = socket.create_connection(split_address(address), timeout=5.0)
            except OSError as error:
                reason = error.strerror or str(error)
                if isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME and not naming.left_s():
                    self._check_name(address, reason)
            else:
                self._connection.settimeout(_SLICE_S)
                coordinator.keep_alive(self._connection)
                self._unread = b""
                self._missing = []
                try:
                    if hosts := self._introduce():
                        return hosts
                except ValueError as error:
                    if isinstance(error, ConfigError):
                        raise
                    reason = "another program answers there, or a job that is already under way"
                self._connection.close()
            if not self._patience.left_s():
                raise TimeoutError(has_no_coordinator(self._membership, reason, self._timeout_s))
            self._tell_news(f"{list_processes(self._membership, [0])} at {address} ({reason})")
            time.sleep(_RETRY_S)

    def _introduce(self) -> tuple[str, ...]:
        """Says who this is and waits for the others; returns nothing if the coordinator ends first."""
        membership = self._membership
        self.say(
            index=membership.process_index,
            count=membership.process_count,
            host=membership.host,
            job=membership.job,
        )
        asked = 0.0
        for message in self.messages():
            self._missing = message.get("waiting_for", self._missing)
            if "hosts" in message:
                return tuple(message["hosts"])
            if "refused" in message:
                raise ConfigError(
                    f"This is process {membership.process_index}, but the job at {membership.coordinator} "
                    f"{message['refused']}. Give each process its own --process_index, and all the same --coordinator "
                    "and --process_count; each job needs a port of its own."
                )
            if "gave_up" in message:
                raise TimeoutError(self._not_all(message["gave_up"], message["after_s"]))
            if not self._patience.left_s() and not asked:
                self.say(give_up=self._timeout_s)  # All are told who is missing now, before this one is too.
                asked = time.monotonic()
            if asked and time.monotonic() - asked > _ANSWER_S:
                raise TimeoutError(self._not_all(self._missing, self._timeout_s))
            if self.is_silent():
                self._tell_news(f"the coordinator at {membership.coordinator}, which does not answer")
            elif self._missing:
                self._tell_news(list_processes(membership, self._missing))
        if asked:  # Somebody else was as impatient, and the coordinator has ended already.
            raise TimeoutError(self._not_all(self._missing, self._timeout_s))
        return ()

    def _not_all(self, missing: list[int], after_s: float) -> str:
        if self.is_silent():
            return has_silent_coordinator(self._membership, after_s)
        return did_not_come(self._membership, missing, after_s)

    def _tell_news(self, whom: str) -> None:
        """Says for whom this process waits, at growing intervals."""
        if time.monotonic() < self._news_s:
            return
        self._pause_s = min(2 * self._pause_s, _LONGEST_NEWS_S)
        self._news_s = time.monotonic() + self._pause_s
        logging.info("Waiting for %s.", whom)

    def _check_name(self, address: str, reason: str) -> None:
        """Raises ConfigError for a name that nobody knows; in Kubernetes a pod that is not there yet has such a one."""
        if "KUBERNETES_SERVICE_HOST" not in os.environ:
            raise ConfigError(
                f"--coordinator={address}, where the processes of this job are to meet: {reason}. Give the address of "
                "process 0's host, or a name that this host knows."
            )
