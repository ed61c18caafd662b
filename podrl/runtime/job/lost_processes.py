"""How a process notices that another process of its job is lost, and ends.

The thread `peers` listens to the coordinator: when a process ends, or says that it fails, or is stuck, all others end
with a line that names it. None can continue alone: the devices' programs need all of them. The run resumes from its
last checkpoint when the same command is given again. `podrl.runtime.job.time_limits` says how soon a loss is noticed.
"""

import atexit
from collections.abc import Callable
import subprocess
import threading
import time
from typing import TYPE_CHECKING

from absl import logging
import jax

from podrl.runtime.interruption import leave
from podrl.runtime.job.connection import Connection
from podrl.runtime.job.messages import coordinator_was_lost, host_was_lost, was_lost
from podrl.runtime.job.time_limits import STALE_S
from podrl.runtime.waiting import Patience

if TYPE_CHECKING:
    from podrl.runtime.job.jax_service import Client  # A run of one process never imports it.

LOSS_S = STALE_S + 10.0  # By then all other processes have heard of a lost process.
_GRACE_S = 10.0  # Time for another thread to end the process, once it knows why.
_SLICE_S = 1.0  # Longest wait without a look at signals.
_WATCH_S = 1.0
_OTHERS_S = 2.0
_LONGEST_TEXT = 4000  # Characters; six bytes each fit into the coordinator's longest line.


class LossListener:
    """The threads that listen for the loss of other processes.

    Attributes:
        closed: set once all processes have said goodbye to the coordinator.
        is_leaving: whether this process handles its own end; from then on no loss ends it.
        exit_code: exit code to use when `explain` has returned a line.
    """

    def __init__(
        self,
        connection: Connection,
        process_index: int,
        *,
        name_of: Callable[[int], str],
        on_loss: Callable[[], None],
        coordinator: subprocess.Popen[bytes] | None,
    ):
        """Starts to listen.

        Args:
            connection: this process's connection to the coordinator.
            process_index: this process's index.
            name_of: returns a process's name for people.
            on_loss: called before this process ends because another was lost.
            coordinator: the coordinator, if it is this process's child.
        """
        self.closed = threading.Event()
        self.is_leaving = False
        self.exit_code = 1
        self._connection = connection
        self._process_index = process_index
        self._name_of = name_of
        self._on_loss = on_loss
        self._coordinator = coordinator
        self._lost = threading.Event()
        self._explanation: str | None = None
        self._explaining = False
        self._handed_over = False
        threading.Thread(target=self._listen, name="peers", daemon=True).start()

    def watch(self, client: "Client") -> threading.Thread:
        """Starts the thread that tells the coordinator which processes JAX's service hears no more heartbeats from."""
        watching = threading.Thread(target=self._watch, args=(client,), name="peers' heartbeats", daemon=True)
        watching.start()
        atexit.register(self._end_at_shutdown)
        return watching

    def fail(self, message: str, exit_code: int) -> None:
        """Tells the others why this process is about to end; see `Job.fail`."""
        if self.is_leaving:
            return
        skip_shutdown(exit_code)
        self.is_leaving = True
        self._connection.say(fail=" ".join(message.split())[:_LONGEST_TEXT], exit_code=exit_code)

    def explain(self, wait_s: float) -> str | None:
        """Explains an error that a lost process may have caused; see `Job.explain_loss`."""
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

    def give_way(self) -> None:
        """Waits after a loss, as the listening thread is about to end the process; returns at once otherwise."""
        if self._lost.is_set():
            time.sleep(_GRACE_S)

    def _listen(self) -> None:
        for message in self._connection.messages():
            if "closed" in message:
                self.closed.set()
            if "loss" in message:
                name, is_this_one = self._name_of(message["loss"]), message["loss"] == self._process_index
                why = was_lost(name, message["why"], message["text"], is_this_one=is_this_one)
                self._end(why, message["exit_code"])
            if self._connection.is_silent() and not self.is_leaving:
                self._end(coordinator_was_lost(self._name_of(0)), 1)  # From now on no loss would be heard of.
        if not self.is_leaving and not self.closed.is_set():
            self._end(host_was_lost(self._connection.hosts[0]), 1)

    def _watch(self, client: "Client") -> None:
        """Asks JAX's service which processes send heartbeats. The call waits until all of these have asked."""
        processes, told = range(len(self._connection.hosts)), set[int]()
        while not self.is_leaving and not self.closed.is_set():
            try:
                alive = client.alive(processes)
            except jax.errors.JaxRuntimeError:
                return  # The service has ended, which the listening thread learns.
            stuck = sorted(set(processes) - alive - told)
            if stuck:
                self._connection.say(stuck=stuck)
                told.update(stuck)
            self.closed.wait(_WATCH_S)

    def _end(self, explanation: str, exit_code: int) -> None:
        """Ends the process, or leaves that to a main thread that has asked for the reason."""
        if self.is_leaving:
            return
        self.exit_code, self._explanation = exit_code, explanation
        self._handed_over = self._explaining
        self._lost.set()
        if self._handed_over:
            time.sleep(_GRACE_S)
        else:
            self._on_loss()
            logging.error("%s", explanation)
            logging.flush()
            self._end_coordinator()
        leave(exit_code)

    def _end_coordinator(self) -> None:
        """Ends a coordinator that was stopped and would not end by itself."""
        if self._coordinator is not None and self._connection.is_silent():
            time.sleep(_OTHERS_S)  # For the others to find out by themselves: its end may make JAX abort them.
            self._coordinator.kill()

    def _end_at_shutdown(self) -> None:
        """Ends a process that has neither left its job nor failed; see `skip_shutdown`."""
        if not self.is_leaving:
            leave(1)


def skip_shutdown(exit_code: int) -> None:
    """Makes the process end before Python shuts down; a call to JAX's service that returned then would abort it."""
    atexit.register(leave, exit_code)
