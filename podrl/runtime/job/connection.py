"""A process's connection to the coordinator, and how the processes of a job meet: see `coordinator`.

Each side proves to the other that it knows the job's secret before anything else is exchanged: see `wire`.
"""

from collections.abc import Callable, Iterator
import contextlib
import errno
import os
import socket
import threading
import time
from typing import Any

from absl import logging

from podrl.config.config import ConfigError
from podrl.runtime.job import mtls, wire
from podrl.runtime.job.addresses import meeting_point
from podrl.runtime.job.handshake import UnprovenError, prove_both
from podrl.runtime.job.membership import Membership
from podrl.runtime.job.messages import (
    did_not_come,
    has_dead_coordinator,
    has_no_coordinator,
    has_no_service,
    has_other_secret,
    has_silent_coordinator,
    list_processes,
)
from podrl.runtime.job.secret import VARIABLE
from podrl.runtime.job.time_limits import SILENT_S
from podrl.runtime.waiting import Patience

_RETRY_S = 0.25
_NO_ANSWER = "it was reached, but does not answer"
_SLICE_S = 1.0
_ANSWER_S = 5.0
_NEWS_S = 5.0  # Seconds until the first message about missing processes; each further one waits twice as long.
_LONGEST_NEWS_S = 60.0
_NAME_S = 15.0  # A name that cannot be resolved for this long is a mistake.
_SECRET_S = 10.0  # A secret that differs for this long is a mistake too: an earlier job would have ended.


class Connection:
    """A process's connection to the coordinator."""

    def __init__(
        self,
        membership: Membership,
        timeout_s: float,
        secret: bytes,
        ended: Callable[[], int | None] = lambda: None,
        tls: str = mtls.NONE,
    ):
        """Connects, and waits until all processes have met.

        Args:
            membership: this process's place among several.
            timeout_s: seconds to wait for the others.
            secret: the job's secret.
            ended: returns the coordinator's exit code if it is this process's child and has ended; None otherwise.
            tls: kind of credentials that this process can have; the attribute of this name is the kind that all agreed
                on.

        Raises:
            RuntimeError: if the coordinator has ended, or JAX's service does not start.
            TimeoutError: if some processes are missing; the message names them.
            ConfigError: if this process cannot be a member of the job.
        """
        self._membership = membership
        self._patience = Patience(timeout_s)
        self._timeout_s = timeout_s
        self._ended = ended
        self.tls = tls
        self._sending = threading.Lock()
        self._missing: list[int] = []
        self._lines = wire.Lines(0)
        self._naming = Patience(_NAME_S)
        self._suspicion: Patience | None = None
        self._silence = Patience(SILENT_S)
        self._news_s, self._pause_s = time.monotonic() + _NEWS_S, _NEWS_S
        self.hosts = self._meet(secret)
        self.own_address = str(self._connection.getsockname()[0])  # By which this host reaches the coordinator.

    def say(self, **message: Any) -> None:
        """Sends a message to the coordinator; does nothing if the connection is lost."""
        with self._sending, contextlib.suppress(OSError):  # The listening thread notices.
            self._connection.sendall(wire.encode_message(**message))

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yields the coordinator's messages until the connection ends, because one of the two or its host was lost.

        In every second without messages it yields an empty one, and asks the coordinator to answer.
        """
        self._silence = Patience(SILENT_S)
        while True:
            try:
                while (message := self._lines.pop()) is not None:  # One by one: the listener may change after each.
                    if "refused_strangers" in message:
                        self._warn_of_strangers(message)
                    else:
                        yield message
            except ValueError:  # Not a line of podrl's: the connection is of no more use.
                return
            try:
                received = self._connection.recv(65536)
            except TimeoutError as error:
                if error.errno == errno.ETIMEDOUT:
                    return  # The operating system's timeout: the host does not answer.
                self._silence.left_s()
                self.say(there=True)
                yield {}
                continue
            except OSError:
                return
            if not received:
                return
            self._silence = Patience(SILENT_S)
            self._lines.add(received)

    def is_silent(self) -> bool:
        """Returns whether the coordinator has not answered for `SILENT_S` on an open connection."""
        return not self._silence.left_s()

    def close(self) -> None:
        """Closes the connection."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _meet(self, secret: bytes) -> tuple[str, ...]:
        """Tries to connect until all processes have met; returns their hosts."""
        while True:
            if not (reason := self._connect(secret)):
                if hosts := self._introduce():
                    return hosts
                self._connection.close()
                reason = "it ended"
            if (code := self._ended()) is not None:
                raise RuntimeError(has_dead_coordinator(self._membership, code))
            if not self._patience.left_s():
                if reason == _NO_ANSWER:
                    raise TimeoutError(has_silent_coordinator(self._membership, self._timeout_s))
                raise TimeoutError(has_no_coordinator(self._membership, reason, self._timeout_s))
            self._tell_news(f"{list_processes(self._membership, [0])} at {self._membership.coordinator} ({reason})")
            time.sleep(_RETRY_S)

    def _connect(self, secret: bytes) -> str:
        """Connects, and has both sides prove that they are of the job; returns why that failed, or an empty text."""
        address = self._membership.coordinator or ""
        suspicion, self._suspicion = self._suspicion, None  # Only a lasting difference is a mistake.
        try:
            connection = socket.create_connection(meeting_point(address), timeout=5.0)
        except OSError as error:
            reason = error.strerror or str(error)
            if isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME and not self._naming.left_s():
                self._check_name(address, reason)
            return reason
        connection.settimeout(_SLICE_S)
        wire.keep_alive(connection)
        try:
            limit_s = max(_SLICE_S, min(SILENT_S, self._patience.left_s()))
            self._lines = prove_both(connection, secret, limit_s)
        except UnprovenError:
            self._suspicion = suspicion or Patience(_SECRET_S)
            if not self._suspicion.left_s():
                raise ConfigError(has_other_secret(self._membership)) from None
            reason = "it has another secret than this process"
        except TimeoutError:
            reason = _NO_ANSWER
        except OSError:
            reason = "it ended"
        except ValueError:
            reason = "another program answers there, or a job that is already running"
        else:
            self._connection, self._missing = connection, []
            return ""
        connection.close()
        return reason

    def _warn_of_strangers(self, message: dict[str, Any]) -> None:
        """Warns that connections were refused; they have changed nothing."""
        logging.warning(
            "Refused %d connection(s) to %s that did not prove to be of this job; the last from %s. If one was of a "
            "process of yours, give all of them the same %s.",
            message["refused_strangers"],
            self._membership.coordinator,
            message["last"],
            VARIABLE,
        )

    def _introduce(self) -> tuple[str, ...]:
        """Introduces this process and waits for the others; returns nothing if the coordinator ends first."""
        membership = self._membership
        index, count = membership.process_index, membership.process_count
        self.say(index=index, count=count, host=membership.host, job=membership.job, tls=self.tls)
        asked = 0.0
        for message in self.messages():
            self._missing = message.get("waiting_for", self._missing)
            if "hosts" in message:
                before, self.tls = self.tls, str(message.get("tls", mtls.NONE))
                if before != self.tls and index == 0:
                    logging.warning("JAX's service runs without mutual TLS: not all processes can make certificates.")
                return tuple(message["hosts"])
            if "refused" in message:
                raise ConfigError(
                    f"This is process {membership.process_index}, but the job at {membership.coordinator} "
                    f"{message['refused']}. Give each process its own --process_index, and all the same --coordinator "
                    "and --process_count; each job needs a port of its own."
                )
            if "failed" in message:
                raise RuntimeError(has_no_service(membership, str(message["failed"])))
            if "mistaken" in message:
                raise ConfigError(str(message["mistaken"]))
            if "gave_up" in message:
                raise TimeoutError(self._not_all(message["gave_up"], message["after_s"]))
            if not self._patience.left_s() and not asked:
                self.say(give_up=self._timeout_s)  # All are told which processes are missing, this one too.
                asked = time.monotonic()
            if asked and time.monotonic() - asked > _ANSWER_S:
                raise TimeoutError(self._not_all(self._missing, self._timeout_s))
            if self.is_silent():
                self._tell_news(f"the coordinator at {membership.coordinator}, which does not answer")
            elif self._missing:
                self._tell_news(list_processes(membership, self._missing))
        if asked:  # Another process's timeout ended too, and the coordinator has ended already.
            raise TimeoutError(self._not_all(self._missing, self._timeout_s))
        return ()

    def _not_all(self, missing: list[int], after_s: float) -> str:
        if self.is_silent():
            return has_silent_coordinator(self._membership, after_s)
        return did_not_come(self._membership, missing, after_s)

    def _tell_news(self, whom: str) -> None:
        """Logs which processes this one waits for, at growing intervals."""
        if time.monotonic() < self._news_s:
            return
        self._pause_s = min(2 * self._pause_s, _LONGEST_NEWS_S)
        self._news_s = time.monotonic() + self._pause_s
        logging.info("Waiting for %s.", whom)

    def _check_name(self, address: str, reason: str) -> None:
        """Raises `ConfigError` for a name that cannot be resolved; in Kubernetes its pod may not exist yet."""
        if "KUBERNETES_SERVICE_HOST" not in os.environ:
            raise ConfigError(
                f"--coordinator={address}, where the processes of this job are to meet: {reason}. Give the address of "
                "process 0's host, or a name that this host knows."
            )
