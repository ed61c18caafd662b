"""One job's processes: how they exchange values, and leave together.

Each process keeps a connection to the coordinator, through which it learns of a lost process
(`podrl.runtime.job.lost_processes`), and exchanges values through JAX's coordination service.
"""

from collections.abc import Callable, Sequence
import contextlib
import itertools
import platform
import subprocess
import threading
from typing import TYPE_CHECKING

from absl import logging
import jax

from podrl.runtime.interruption import leave
from podrl.runtime.job.connection import Connection
from podrl.runtime.job.lost_processes import LOSS_S, LossListener, skip_shutdown
from podrl.runtime.job.membership import Membership
from podrl.runtime.job.messages import capital
from podrl.runtime.waiting import Patience
from podrl.runtime.watchdog import STALLED

if TYPE_CHECKING:
    from podrl.runtime.job.jax_service import Client  # A run of one process never imports it.

LEAVE_S = 60.0  # How long the first process to finish waits for the last.
CONNECT_S = 120.0  # All have met already: their clients connect within moments.
JAX_CONNECT_S = 180  # JAX's own limit, after which it aborts the process.
_SLICE_S = 1.0  # Longest wait without a look at signals.
_RETURN_S = 5.0


class Job:
    """The processes that run together, as one of them sees them.

    Attributes:
        process_index: this process's index.
        process_count: number of processes in the job.
        hosts: hosts of the processes, by index.
        on_loss: called before this process ends because another was lost; restores the terminal.
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
        self._connection = connection
        self._client = client
        self._coordinator = coordinator
        self._rounds: dict[str, itertools.count[int]] = {}
        self._sent: dict[str, str] = {}  # Sent to itself, in a job of one process.
        self._watching: threading.Thread | None = None
        self._losses: LossListener | None = None
        if connection is not None:
            self._losses = LossListener(
                connection,
                self.process_index,
                name_of=self.name_of,
                on_loss=lambda: self.on_loss(),
                coordinator=coordinator,
            )

    def connect(self) -> None:
        """Connects JAX's client, once; meanwhile a lost process is noticed already.

        If the service does not accept it in time, the process ends with a line that says so, before JAX aborts it.
        """
        if self._losses is None or self._client is None:
            return
        limit = threading.Timer(CONNECT_S, self._give_up_connecting)
        limit.daemon = True
        limit.start()
        try:
            self._client.connect()
        finally:
            limit.cancel()
        self._watching = self._losses.watch(self._client)

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
        if self._losses is not None:
            self._losses.fail(message, exit_code)

    def explain_loss(self, wait_s: float = LOSS_S) -> str | None:
        """Explains an error that a lost process may have caused: which process was lost, and why.

        A collective fails as soon as a connection breaks, often before the cause is known. After this call the caller
        ends the process, with `exit_code`.

        Args:
            wait_s: seconds to wait for the explanation.

        Returns:
            The line to end with; None if no process was lost.
        """
        return None if self._losses is None else self._losses.explain(wait_s)

    @property
    def exit_code(self) -> int:
        """Exit code to use when `explain_loss` has returned a line."""
        return 1 if self._losses is None else self._losses.exit_code

    def leave(self, exit_code: int, timeout_s: float = LEAVE_S) -> None:
        """Ends the job in good order: waits for the other processes to finish, up to a limit.

        Args:
            exit_code: exit code with which this process is about to end.
            timeout_s: seconds to wait for the others.
        """
        if self._connection is None or self._client is None or self._losses is None:
            return
        losses = self._losses
        self._connection.say(bye=True)
        patience = Patience(timeout_s)
        while not losses.is_leaving and (left_s := patience.left_s()):
            if losses.closed.wait(min(_SLICE_S, left_s)):
                break
            losses.give_way()
        failed, losses.is_leaving = losses.is_leaving, True
        self._client.take_from_jax()
        if not losses.closed.is_set():
            # The connection stays open until the process ends: until then the service stays.
            if not failed:
                logging.warning("Not all processes are done after %.0f s; this one waits no longer.", timeout_s)
                skip_shutdown(exit_code)
            return
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._client.shutdown()
        self._connection.close()
        if self._watching is not None:
            self._watching.join(timeout=_RETURN_S)  # Its call ends with the coordinator, once all have left.
            if self._watching.is_alive():
                skip_shutdown(exit_code)
        if self._coordinator is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._coordinator.wait(timeout=5.0)

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


def _take(client: "Client", key: str, patience: Patience) -> str | None:
    """Returns the value of a key as soon as it is set; None if it is not set in time."""
    while True:
        left_s = patience.left_s()
        if (value := client.take(key, min(_SLICE_S, left_s))) is not None or not left_s:
            return value


# The job of a program without others.
ALONE = Job(Membership(platform="alone"), (platform.node(),))
