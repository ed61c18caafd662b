"""How threads wait: never for ever, and with a message that names who waited for whom.

Time in which the whole process was stopped (Ctrl-Z, a scheduler that suspends jobs, a laptop that sleeps) does not
count: nobody could have done anything.
"""

from collections.abc import Callable
import threading
import time

_SLICE_S = 1.0  # the longest sleep without a look at the clock


class Stopped(Exception):
    """The run is over; raised in threads that wait for something that will not come."""


class Patience:
    """How long a wait may still last; to be asked at least once a second."""

    def __init__(self, timeout_s: float):
        """Starts counting."""
        self._left_s = timeout_s
        self._asked_s = time.monotonic()

    def left_s(self) -> float:
        """Seconds left, at least 0."""
        now_s = time.monotonic()
        self._left_s -= min(now_s - self._asked_s, 2 * _SLICE_S)
        self._asked_s = now_s
        return max(self._left_s, 0.0)


def wait_until(condition: Callable[[], bool], *, timeout_s: float, blame: Callable[[], str]) -> None:
    """Polls until `condition` holds; a device cannot be waited for with a time limit in any other way.

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
    """Waits, holding `changed`, until somebody notifies it and `condition` holds.

    Args:
        changed: notified by whoever changes what `condition` looks at; held by the caller.
        condition: what to wait for.
        timeout_s: for how long.
        blame: says who waited for whom.
        should_stop: asked every second.

    Raises:
        TimeoutError: with `blame()` if it does not hold in time.
        Stopped: if `should_stop` says so first.
    """
    patience = Patience(timeout_s)
    while not changed.wait_for(condition, min(left_s := patience.left_s(), _SLICE_S)):
        if should_stop():
            raise Stopped
        if not left_s:
            raise TimeoutError(blame())
