"""How threads wait: always with a timeout, and with a message that names which thread waited for which.

Time in which the whole process was stopped (Ctrl-Z, a scheduler that suspends jobs, a laptop that sleeps) does not
count: no thread could have done anything.
"""

from collections.abc import Callable
import threading
import time

_SLICE_S = 1.0  # The longest sleep without a look at the clock.


class Stopped(Exception):
    """Ends a thread's wait for something that will not come, because the run is over."""


class Patience:
    """The time left for a wait; ask for it at least once a second."""

    def __init__(self, timeout_s: float):
        """Starts the clock."""
        self._left_s = timeout_s
        self._asked_s = time.monotonic()

    def left_s(self) -> float:
        """Returns the seconds left, at least 0."""
        now_s = time.monotonic()
        self._left_s -= min(now_s - self._asked_s, 2 * _SLICE_S)
        self._asked_s = now_s
        return max(self._left_s, 0.0)


def wait_until(condition: Callable[[], bool], *, timeout_s: float, blame: Callable[[], str]) -> None:
    """Polls until `condition` holds; there is no other way to wait for a device with a timeout.

    Raises:
        TimeoutError: with `blame()` if it does not hold in time.
    """
    patience, pause_s = Patience(timeout_s), 5e-5
    while not condition():
        if not patience.left_s():
            raise TimeoutError(blame())
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 1e-3)


def wait_for(
    changed: threading.Condition,
    condition: Callable[[], bool],
    *,
    timeout_s: float,
    blame: Callable[[], str],
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Waits, holding `changed`, until it is notified and `condition` holds.

    Args:
        changed: condition variable that is notified of every change in what `condition` looks at; held by the caller.
        condition: the condition to wait for.
        timeout_s: longest wait in seconds.
        blame: says which thread waited for which.
        should_stop: asked every second.

    Raises:
        TimeoutError: with `blame()` if the condition does not hold in time.
        Stopped: if `should_stop` returns true first.
    """
    patience = Patience(timeout_s)
    while not changed.wait_for(condition, min(left_s := patience.left_s(), _SLICE_S)):
        if should_stop():
            raise Stopped
        if not left_s:
            raise TimeoutError(blame())
