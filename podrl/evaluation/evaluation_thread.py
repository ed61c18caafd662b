"""The thread of one evaluation: it plays with a copy of one update's parameters, and keeps the result or the error."""

from collections.abc import Callable
import threading
from typing import Protocol

from podrl.evaluation.episodes import Episodes
from podrl.runtime.ledger import Ledger
from podrl.types import Counters, PyTree


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


class Evaluation:
    """The thread of one evaluation.

    Attributes:
        counters: counters of the update whose parameters play.
    """

    def __init__(self, play: Play, counters: Counters, params: PyTree, ledger: Ledger) -> None:
        """Starts the thread."""
        self.counters = counters
        self._ledger = ledger
        self._play = play
        self._episodes: Episodes | None = None
        self._error: BaseException | None = None
        self._progress = (0, 0)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(params,), name="evaluator", daemon=True)
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
        episodes, step = self._progress
        return f"the evaluation of {self.name} has finished {episodes} episodes and is at step {step:,}"

    @property
    def name(self) -> str:
        """Name of its update."""
        return f"update {self.counters.learner_steps}"

    def _run(self, params: PyTree) -> None:
        def show_progress(episodes: int, step: int) -> None:
            with self._ledger.spend("log"):
                self._progress = (episodes, step)

        try:
            self._episodes = self._play(
                params, self.counters.learner_steps, show_progress=show_progress, should_stop=self._stopping.is_set
            )
        except BaseException as error:  # noqa: BLE001 (kept and raised in the main thread)
            self._error = error
