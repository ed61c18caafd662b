"""One job's processes: how they exchange values, leave together, and react to a lost process.

Each process keeps a connection to the coordinator and a thread, `peers`, that listens to it: when a process ends, or
says that it fails, or is stuck, all others end with a line that names it. None can continue alone: the devices'
programs need all of them. The run resumes from its last checkpoint when the same command is given again.

Four timers find a loss, and none needs Python to be quick: a process that ends closes its connection at once; the
operating systems of the others notice a failed host after 14 s (`wire.KEEPALIVE`); a process that is stopped, or a host
that hangs, sends no more heartbeats to JAX's service, whose limit is `coordinator.STALE_S`; and a coordinator that is
stopped itself does not answer the processes (`coordinator.SILENT_S`).
"""

import atexit
from collections.abc import Callable, Sequence
import contextlib
import itertools
import platform
import subprocess
import threading
import time
from typing import TYPE_CHECKING

from absl import logging
import jax

from podrl.runtime.interruption import leave
from podrl.runtime.job.connection import Connection
from podrl.runtime.job.coordinator import SILENT_S, STALE_S
from podrl.runtime.job.membership import Membership
from podrl.runtime.job.messages import capital, was_lost
from podrl.runtime.waiting import Patience
from podrl.runtime.watchdog import STALLED

if TYPE_CHECKING:
    from podrl.runtime.job.jax_service import Client  # A run of one process never imports it.

LOSS_S = STALE_S + 10.0  # By then all other processes have heard of a lost process.
LEAVE_S = 60.0  # How long the first process to finish waits for the last.
CONNECT_S = 120.0  # All have met already: their clients connect within moments.
JAX_CONNECT_S = 180  # JAX's own limit, after which it aborts the process.
_SLICE_S = 1.0  # Longest wait without a look at signals.
_WATCH_S = 1.0
_OTHERS_S = 2.0
_RETURN_S = 5.0
_LONGEST_TEXT = 4000  # Characters; six bytes each fit into the coordinator's longest line.
_GRACE_S = 10.0  # Time for the main thread to end the process, once it knows why.


class Job:
    """The processes that run together, as one of them sees them.

    Attributes:
        process_index: this process's index.
        process_count: number of processes in the job.
        hosts: hosts of the processes, by index.
        on_loss: called before this process ends because another was lost; restores the terminal.
        exit_code: exit code to use when `explain_loss` has returned a line.
    """

    def __init__(
        self,
        membership: Membership,
        hosts: tuple[str, ...],
        *,
        connection: Connection | None = None,
        client: "Client | None" = None,
        coordinator: subprocess.Popen[bytes] | None = None,
    ):
        """Makes a job of one process, or one that was joined: see `podrl.runtime.job.joining`."""
        self.process_index = membership.process_index
        self.process_count = membership.process_count
        self.hosts = hosts
        self.on_loss: Callable[[], None] = lambda: None
        self.exit_code = 1
        self._connection = connection
        self._client = client
        self._coordinator = coordinator
        self._rounds: dict[str, itertools.count[int]] = {}
        self._sent: dict[str, str] = {}  # Sent to itself, in a job of one process.
        self._lost = threading.Event()
        self._explanation: str | None = None
        self._explaining = False
        self._handed_over = False
        self._closed = threading.Event()
        self._ending = False
        self._watching: threading.Thread | None = None
        if connection is not None:
            threading.Thread(target=self._listen, args=(connection,), name="peers", daemon=True).start()

    def connect(self) -> None:
        """Connects JAX's client, once; meanwhile a lost process is noticed already.

        If the service does not accept it in time, the process ends with a line that says so, before JAX aborts it.
        """
        if self._connection is None or self._client is None:
            return
        limit = threading.Timer(CONNECT_S, self._give_up_connecting)
        limit.daemon = True
        limit.start()
        try:
            self._client.connect()
        finally:
            limit.cancel()
        arguments = (self._connection, self._client)
        watching = threading.Thread(target=self._watch, args=arguments, name="peers' heartbeats", daemon=True)
        watching.start()
        self._watching = watching
        atexit.register(self._end_at_shutdown)

    def name_of(self, process: int) -> str:
        """Returns a process's name for people: `process 1 (node2)`."""
        return f"process {process} ({self.hosts[process]})"

    def exchange(self, name: str, value: str, timeout_s: float) -> list[str]:
        """Shares this process's value with all processes, and waits for theirs.

        All processes call this in the same order. The same name may be used again.

        Args:
            name: description of the values, for error messages.
            value: this process's value.
            timeout_s: seconds to wait.

        Returns:
            The values by process index.

        Raises:
            TimeoutError: if values are missing; the message names the processes.
        """
        if self._client is None:
            return [value]
        number = next(self._rounds.setdefault(name, itertools.count()))
        folder = f"podrl/exchange/{name}/{number}"
        self._client.put(f"{folder}/{self.process_index}", value)
        patience = Patience(timeout_s)
        values: list[str] = []
        for process in range(self.process_count):
            found = _take(self._client, f"{folder}/{process}", patience)
            if found is None:
                raise TimeoutError(self._incomplete(name, self._client.keys(folder), timeout_s))
            values.append(found)
        if number > 0:  # All have come this far, so all have read the round before.
            self._client.delete(f"podrl/exchange/{name}/{number - 1}/{self.process_index}")
        return values

    def send(self, name: str, value: str) -> None:
        """Stores a value for others to `receive`; does not wait for them. Each name is used once."""
        if self._client is None:
            self._sent[name] = value
        else:
            self._client.put(f"podrl/sent/{self.process_index}/{name}", value)

    def receive(self, process: int, name: str, timeout_s: float) -> str:
        """Waits for the value that a process sends under this name, and removes it.

        Raises:
            TimeoutError: if the value does not arrive in time; the message names the process.
        """
        if self._client is None:
            return self._sent.pop(name)
        key = f"podrl/sent/{process}/{name}"
        value = _take(self._client, key, Patience(timeout_s))
        if value is None:
            me, other = self.name_of(self.process_index), self.name_of(process)
            raise TimeoutError(f"{capital(me)} waited {timeout_s:g} s for {name!r} from {other}.")
        self._client.delete(key)
        return value

    def fail(self, message: str, exit_code: int) -> None:
        """Tells the others why this process is about to end, so that they end too, with the same exit code.

        From then on the loss of another process does not end this one, which handles its own end. However that happens,
        the exit code is the one that the others were told.
        """
        if self._connection is None or self._ending:
            return
        _skip_shutdown(exit_code)
        self._ending = True
        self._connection.say(fail=" ".join(message.split())[:_LONGEST_TEXT], exit_code=exit_code)

    def explain_loss(self, wait_s: float = LOSS_S) -> str | None:
        """Explains an error that a lost process may have caused: which process was lost, and why.

        A collective fails as soon as a connection breaks, often before the cause is known. After this call the caller
        ends the process, with `exit_code`.

        Args:
            wait_s: seconds to wait for the explanation.

        Returns:
            The line to end with; None if no process was lost.
        """
        if self._connection is None:
            return None
        self._explaining = True
        patience = Patience(wait_s)
        while not self._lost.wait(min(_SLICE_S, left_s := patience.left_s())):
            if not left_s:
                self._explaining = False
                return None
        if not self._handed_over:
            time.sleep(_GRACE_S)  # The listening thread is about to end the process.
        self._end_coordinator()
        return self._explanation

    def leave(self, exit_code: int, timeout_s: float = LEAVE_S) -> None:
        """Ends the job in good order: waits for the other processes to finish, up to a limit.

        Args:
            exit_code: exit code with which this process is about to end.
            timeout_s: seconds to wait for the others.
        """
        if self._connection is None or self._client is None:
            return
        self._connection.say(bye=True)
        patience = Patience(timeout_s)
        while not self._ending and (left_s := patience.left_s()):
            if self._closed.wait(min(_SLICE_S, left_s)):
                break
            if self._lost.is_set():
                time.sleep(_GRACE_S)  # The listening thread is about to end the process.
        failed, self._ending = self._ending, True
        self._client.take_from_jax()
        if not self._closed.is_set():  # The connection stays open until the process ends: until then the service stays.
            if not failed:
                logging.warning("Not all processes are done after %.0f s; this one waits no longer.", timeout_s)
                _skip_shutdown(exit_code)
            return
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._client.shutdown()
        self._connection.close()
        if self._watching is not None:
            self._watching.join(timeout=_RETURN_S)  # Its call ends with the coordinator, once all have left.
            if self._watching.is_alive():
                _skip_shutdown(exit_code)
        if self._coordinator is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._coordinator.wait(timeout=5.0)

    def _end_at_shutdown(self) -> None:
        """Ends a process that has neither left its job nor failed; see `_skip_shutdown`."""
        if not self._ending:
            leave(1)

    def _give_up_connecting(self) -> None:
        """Ends the process, because JAX's service did not accept its client within `CONNECT_S`."""
        me, first = capital(self.name_of(self.process_index)), self.name_of(0)
        why = f"{me} has met the others, but JAX's service beside {first} did not take it within {CONNECT_S:g} s."
        self.fail(why, STALLED)
        self.on_loss()
        logging.error("%s", why)
        leave(STALLED)

    def _incomplete(self, name: str, keys: Sequence[str], timeout_s: float) -> str:
        """Returns a message that names the missing processes."""
        there = {int(key.rpartition("/")[2]) for key in keys}
        missing = [self.name_of(process) for process in range(self.process_count) if process not in there]
        me = self.name_of(self.process_index)
        return f"{capital(me)} waited {timeout_s:g} s at {name!r} for {', '.join(missing) or 'no process'}."

    def _listen(self, connection: Connection) -> None:
        for message in connection.messages():
            if "closed" in message:
                self._closed.set()
            if "loss" in message:
                lost = message["loss"]
                name, is_this_one = self.name_of(lost), lost == self.process_index
                self._end(
                    was_lost(name, message["why"], message["text"], is_this_one=is_this_one), message["exit_code"]
                )
            if connection.is_silent() and not self._ending:
                self._end_without_coordinator()
        if not self._ending and not self._closed.is_set():
            host = self.hosts[0]
            self._end(f"The connection to process 0's host ({host}) is lost: the host or the network has failed.", 1)

    def _end_without_coordinator(self) -> None:
        """Ends the process, which could no longer learn of a lost one."""
        self._end(
            f"The coordinator beside {self.name_of(0)} has not answered for {SILENT_S:.0f} s: it was stopped, or its "
            "host hangs, or the network has failed.",
            1,
        )

    def _watch(self, connection: Connection, client: "Client") -> None:
        """Asks JAX's service which processes send heartbeats. The call waits until all of these have asked."""
        told: set[int] = set()
        while not self._ending and not self._closed.is_set():
            try:
                alive = client.alive(range(self.process_count))
            except jax.errors.JaxRuntimeError:
                return  # The service has ended, which the listening thread learns.
            stuck = sorted(set(range(self.process_count)) - alive - told)
            if stuck:
                connection.say(stuck=stuck)
                told.update(stuck)
            self._closed.wait(_WATCH_S)

    def _end(self, explanation: str, exit_code: int) -> None:
        """Ends the process, or leaves that to a main thread that has asked for the reason."""
        if self._ending:
            return
        self.exit_code, self._explanation = exit_code, explanation
        self._handed_over = self._explaining
        self._lost.set()
        if self._handed_over:
            time.sleep(_GRACE_S)
        else:
            self.on_loss()
            logging.error("%s", explanation)
            logging.flush()
            self._end_coordinator()
        leave(exit_code)

    def _end_coordinator(self) -> None:
        """Ends a coordinator that was stopped and would not end by itself."""
        if self._coordinator is not None and self._connection is not None and self._connection.is_silent():
            time.sleep(_OTHERS_S)  # For the others to find out by themselves: its end may make JAX abort them.
            self._coordinator.kill()


def _take(client: "Client", key: str, patience: Patience) -> str | None:
    """Returns the value of a key as soon as it is set; None if it is not set in time."""
    while True:
        left_s = patience.left_s()
        if (value := client.take(key, min(_SLICE_S, left_s))) is not None or not left_s:
            return value


def _skip_shutdown(exit_code: int) -> None:
    """Makes the process end before Python shuts down; a call to JAX's service that returned then would abort it."""
    atexit.register(leave, exit_code)


# The job of a program without others.
ALONE = Job(Membership(platform="alone"), (platform.node(),))
