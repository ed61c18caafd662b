"""Evaluation during training: a thread plays with a copy of one update's parameters, in pools of its own.

Training does not depend on it: the two share no environment, no seed and no key, and the learner waits for an
evaluation only if the next one is due, or a checkpoint is to be saved. Every evaluation before a checkpoint has its row
before that checkpoint exists, so a run that resumes there misses none; rows after it are dropped and made again, and so
is the row of the checkpoint's own update if it is missing. A run that is told to stop during an evaluation does not
wait for it, if the process that evaluates is told; a signal to another process alone waits until the evaluation ends.
What is `unfinished` then is kept beside the checkpoint, and made first when the run resumes.
"""

from collections.abc import Callable, Sequence, Set
from types import TracebackType
from typing import Any

from absl import logging

from podrl.evaluation.endless import EndlessError
from podrl.evaluation.episodes import Episodes
from podrl.evaluation.evaluation_thread import Evaluation, EvaluationError, Play, Turns
from podrl.runtime.ledger import Ledger
from podrl.runtime.waiting import Patience
from podrl.types import Counters, PyTree

ROW_KEY = "evaluate/return"  # Only rows of evaluations have it.
# (result of `Agent.actor_params`, of the same shapes) -> the counters and parameters of evaluations.
FindUnfinished = Callable[[PyTree], Sequence[tuple[Counters, PyTree]]]
_JOIN_S = 10.0
_POLL_S = 0.05


class Evaluator:
    """Evaluates some updates, one at a time; a context manager that leaves no thread behind.

    Attributes:
        ledger: ledger of its thread; it changes with every step of an evaluation.
    """

    def __init__(
        self,
        *,
        every_updates: int,
        last_update: int,
        done: Set[int] = frozenset(),
        timeout_s: float,
        play: Play,
        write: Callable[[Counters, Episodes], None],
        ledger: Ledger | None = None,
        turns: Turns | None = None,
        whose: str = "",
        find_unfinished: FindUnfinished = lambda params: (),
    ) -> None:
        """Prepares the evaluator; `add` starts evaluations.

        Args:
            every_updates: updates between evaluations; the last update has one too. 0 for none.
            last_update: number of the last update.
            done: updates that were evaluated before.
            timeout_s: seconds to wait for an evaluation.
            play: called in the thread.
            write: called with the episodes, in the thread that calls `add` and `settle`.
            ledger: ledger of the thread; a new one by default.
            turns: shared with evaluators whose evaluations may be due at the same time.
            whose: ends the names of updates in messages, to name one of several seeds.
            find_unfinished: returns what an earlier start of the run left unfinished; called once, by the first `add`.
        """
        self.ledger = ledger or Ledger("evaluator")
        self._every_updates, self._last_update = every_updates, last_update
        self._done = set(done)
        self._timeout_s = timeout_s
        self._play, self._write = play, write
        self._turns, self._whose = turns or Turns(), whose
        self._find_unfinished: FindUnfinished | None = find_unfinished
        self._running: Evaluation | None = None
        self._waiting: list[tuple[Counters, PyTree]] = []  # Until it has ended; only where a run stops or resumes.

    def __enter__(self) -> "Evaluator":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def is_due(self, counters: Counters) -> bool:
        """Returns whether the update that was just counted is to be evaluated and has not been."""
        due = is_evaluation_due(counters, every_updates=self._every_updates, last_update=self._last_update)
        return due and counters.learner_steps not in self._done

    def add(
        self,
        counters: Counters,
        params: PyTree,
        *,
        saves: bool = False,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Handles an update that was just made: writes a finished evaluation and starts the update's own if it is due.

        Waits for a running evaluation if another is to start, or a checkpoint is to be saved.

        Args:
            counters: counters after this update.
            params: result of `Agent.actor_params`; not donated to anything later. Needed at the start of a run, too.
            saves: whether a checkpoint of this update follows.
            should_stop: asked repeatedly during a wait.

        Returns:
            False if `should_stop` ended a wait: then some evaluation is unfinished.

        Raises:
            EvaluationError: if an evaluation failed.
            TimeoutError: if an evaluation does not end in time; the message says how far it is.
        """
        due, ended = self.is_due(counters), True
        if due or saves:
            ended = self.settle(should_stop)
        else:
            self._finish_if_ended()
        if self._find_unfinished is not None:
            find, self._find_unfinished = self._find_unfinished, None
            self._waiting.extend(find(params))
        if due:
            self._done.add(counters.learner_steps)
            self._waiting.append((counters, params))
        self._start_next()
        return ended

    def unfinished(self) -> list[tuple[Counters, PyTree]]:
        """Returns the counters and parameters of evaluations that are due and have no row yet, in their order."""
        running = [(self._running.counters, self._running.params)] if self._running else []
        return running + self._waiting

    def settle(self, should_stop: Callable[[], bool] = lambda: False) -> bool:
        """Waits for all that is due and writes it; False if `should_stop` ended the wait. Raises as `add` does."""
        while (running := self._running) is not None:
            patience = Patience(self._timeout_s)
            while not running.join(min(_POLL_S, left_s := patience.left_s())):
                if should_stop():
                    return False
                if not left_s:
                    raise TimeoutError(
                        f"The learner waited {self._timeout_s:.0f} s for an evaluation: {running.doing()}. If it is "
                        "this slow, raise evaluate.timeout_s or lower evaluate.episodes."
                    )
            self._finish_if_ended()
        return True

    def is_alive(self) -> bool:
        """Returns whether an evaluation is running."""
        running = self._running
        return running is not None and not running.join(0.0)

    def doing(self) -> str:
        """Describes the progress of a running evaluation, for messages."""
        running = self._running
        return running.doing() if running else "the evaluator has nothing to do"

    def close(self) -> None:
        """Ends a running evaluation, without a row."""
        running, self._running = self._running, None
        if running is None:
            return
        running.stop()
        logging.info("Left undone: %s.", running.doing())
        for counters, _ in self._waiting:
            logging.info("Left undone: the evaluation of update %d%s.", counters.learner_steps, self._whose)
        if not running.join(min(self._timeout_s, _JOIN_S)):
            logging.error("The evaluator did not end; leaving without it.")

    def _finish_if_ended(self) -> None:
        """Writes the running evaluation if it has ended, and starts the next."""
        if self._running is not None and self._running.join(0.0):
            ended, self._running = self._running, None
            self._finish(ended)
            self._start_next()

    def _start_next(self) -> None:
        if self._running is None and self._waiting:
            self._running = Evaluation(self._play, *self._waiting.pop(0), self.ledger, self._turns, self._whose)

    def _finish(self, ended: Evaluation) -> None:
        try:
            episodes = ended.result()
        except EvaluationError as error:
            if not isinstance(error.__cause__, EndlessError):
                raise
            logging.warning("%s It has no row; training continues.", error)  # A later policy may do better.
            return
        self._write(ended.counters, episodes)


def is_evaluation_due(counters: Counters, *, every_updates: int, last_update: int) -> bool:
    """Returns whether the update that was just counted is to be evaluated; the same on every process.

    Args:
        counters: counters after this update.
        every_updates: updates between evaluations; the last update has one too. 0 for none.
        last_update: number of the last update.
    """
    update = counters.learner_steps
    return every_updates > 0 and update > 0 and (update == last_update or update % every_updates == 0)


def _play_nothing(params: PyTree, update: int, **_: Any) -> Episodes:
    raise RuntimeError("There is no evaluation in this run.")


# The evaluator of runs without evaluation.
OFF = Evaluator(
    every_updates=0, last_update=0, timeout_s=1.0, play=_play_nothing, write=lambda counters, episodes: None
)
