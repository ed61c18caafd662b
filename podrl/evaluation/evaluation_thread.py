"""The thread of one evaluation: it plays with a copy of one update's parameters, and keeps the result or the error."""

from collections.abc import Callable
import threading
from typing import Protocol

from podrl.evaluation.episodes import Episodes
from podrl.runtime.ledger import Ledger
from podrl.runtime.waiting import Stopped
from podrl.types import Counters, PyTree

_POLL_S = 0.1


class EvaluationError(RuntimeError):
    """An evaluation failed; the message names its update, and the cause is the original error."""


class Play(Protocol):
    """Plays the episodes of one evaluation."""

    def __call__(
        self,
        params: PyTree,
        update: int,
        *,
        show_progress: Callable[[int, int], None],
        should_stop: Callable[[], bool],
    ) -> Episodes:
        """Plays with the result of `Agent.actor_params`; otherwise like `podrl.evaluation.play.Player.play`."""
        ...


class Turns:
    """Lets the evaluations of several evaluators play in the order in which they began, a few at a time."""

    def __init__(self, at_once: int = 1) -> None:
        """Sets how many play at the same time."""
        self._at_once = at_once
        self._changed = threading.Condition()
        self._queue: list[object] = []

    def join(self, one: object) -> None:
        """Adds one to the end of the queue."""
        with self._changed:
            self._queue.append(one)

    def wait(self, one: object, stopping: threading.Event) -> None:
        """Waits until it is this one's turn.

        Raises:
            Stopped: if it is to stop before that.
        """
        with self._changed:
            while not self._changed.wait_for(lambda: self._queue.index(one) < self._at_once, _POLL_S):
                if stopping.is_set():
                    raise Stopped

    def leave(self, one: object) -> None:
        """Makes room for the next."""
        with self._changed:
            self._queue.remove(one)
            self._changed.notify_all()


class Evaluation:
    """The thread of one evaluation.

    Attributes:
        counters: counters of the update whose parameters play.
        params: those parameters, the result of `Agent.actor_params`.
        name: name of the update.
    """

    def __init__(
        self, play: Play, counters: Counters, params: PyTree, ledger: Ledger, turns: Turns, whose: str = ""
    ) -> None:
        """Starts the thread, which waits for its turn.

        Args:
            play: plays the episodes.
            counters: counters of the update whose parameters play.
            params: result of `Agent.actor_params`.
            ledger: ledger of the thread.
            turns: shared with evaluations that may play at the same time.
            whose: ends the update's name, to name one of several seeds.
        """
        self.counters, self.params = counters, params
        self.name = f"update {counters.learner_steps}{whose}"
        self._ledger, self._turns = ledger, turns
        self._play = play
        self._episodes: Episodes | None = None
        self._error: BaseException | None = None
        self._progress: tuple[int, int] | None = None  # Finished episodes and steps; none before its turn.
        self._stopping = threading.Event()
        turns.join(self)
        self._thread = threading.Thread(target=self._run, name="evaluator", daemon=True)
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Waits for the end and returns whether it has come."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Asks the thread to end after its current step."""
        self._stopping.set()

    def result(self) -> Episodes:
        """Returns the episodes of an evaluation that has ended by itself.

        Raises:
            EvaluationError: if it failed.
        """
        if self._episodes is None:
            error = self._error
            raise EvaluationError(f"The evaluation of {self.name} failed: {type(error).__name__}: {error}") from error
        return self._episodes

    def doing(self) -> str:
        """Describes its progress, for messages."""
        if self._progress is None:
            return f"the evaluation of {self.name} waits for others to end"
        episodes, step = self._progress
        return f"the evaluation of {self.name} has finished {episodes} episodes and is at step {step:,}"

    def _run(self) -> None:
        def show_progress(episodes: int, step: int) -> None:
            with self._ledger.spend("log"):
                self._progress = (episodes, step)

        try:
            with self._ledger.spend("evaluate"):
                self._turns.wait(self, self._stopping)
            self._progress = (0, 0)
            self._episodes = self._play(
                self.params,
                self.counters.learner_steps,
                show_progress=show_progress,
                should_stop=self._stopping.is_set,
            )
        except BaseException as error:  # noqa: BLE001 (kept and raised in the main thread)
            self._error = error
        finally:
            self._turns.leave(self)
