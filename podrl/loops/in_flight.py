"""What the learner has launched and has not seen end: one update, or one call of several."""

from collections.abc import Callable
from typing import NamedTuple

from podrl.runtime.devices import is_ready
from podrl.runtime.ledger import Ledger
from podrl.runtime.waiting import wait_until
from podrl.telemetry.rates import End
from podrl.types import PyTree


class _Launched(NamedTuple):
    name: str
    arrays: PyTree
    enter: Callable[[End], None]


class InFlight:
    """The newest launch. It is settled when the next one is in flight, so that reading its metrics delays nothing."""

    def __init__(self, ledger: Ledger, mark: Callable[[], End], *, timeout_s: float, whose: str, remedy: str):
        """Starts with nothing launched.

        Args:
            ledger: The main thread's; waiting for an update counts as learning.
            mark: Returns the end of an update that is seen to end now.
            timeout_s: How long a launch may take.
            whose: `its` or `their`, what a launch is called in the error: one update, or several.
            remedy: What to change if launches are this slow, for the error.
        """
        self._ledger, self._mark = ledger, mark
        self._timeout_s, self._whose, self._remedy = timeout_s, whose, remedy
        self._launched: _Launched | None = None
        self._end: End | None = None  # Of the launch, as soon as it is known.

    def add(self, name: str, arrays: PyTree, enter: Callable[[End], None]) -> None:
        """Takes a new launch, and settles the one before it.

        Args:
            name: What was launched, for errors: `update 3`.
            arrays: Outputs on the devices; they are ready when the launch has ended.
            enter: Takes the launch's end, once it has ended; may raise.
        """
        self.settle()
        self._launched = _Launched(name, arrays, enter)
        self.look()  # Some programs end before their launch returns: on a CPU those that call Python.

    def look(self) -> bool:
        """Returns whether the launch has ended, and keeps when that was first seen. Waits for nothing."""
        if self._launched is not None and self._end is None and is_ready(self._launched.arrays):
            self._end = self._mark()
        return self._launched is None or self._end is not None

    def wait(self, unless: Callable[[], bool] = lambda: False) -> None:
        """Waits until the launch has ended on its devices, or `unless` holds.

        Raises:
            TimeoutError: If neither comes in time.
        """
        launched = self._launched
        if launched is None:
            return
        with self._ledger.spend("learn"):
            wait_until(
                lambda: self.look() or unless(),
                timeout_s=self._timeout_s,
                blame=lambda: (
                    f"The learner waited {self._timeout_s:.0f} s for {launched.name} to end on "
                    f"{self._whose} devices. If updates are this slow, {self._remedy}."
                ),
            )

    def settle(self) -> None:
        """Waits for the launch and enters it.

        Raises:
            TimeoutError: If it does not end in time.
            NonFiniteError: If the loss or gradient of an update is not finite.
        """
        self.wait()
        launched, self._launched = self._launched, None
        end, self._end = self._end, None
        if launched is not None and end is not None:
            launched.enter(end)
