"""Evaluation during training: a thread plays with a copy of one update's parameters, in pools of its own.

Training does not depend on it: the two share no environment, no seed and no key, and the learner waits for an
evaluation only if the next one is due, or a checkpoint is to be saved. Every evaluation before a checkpoint has its row
before that checkpoint exists, so a run that resumes there misses none; rows after it are dropped and made again, and so
is the row of the checkpoint's own update if it is missing. The exception is a run that is told to stop during an
evaluation: it saves its state at once, and names the evaluation, which gets no row if it belongs to an earlier update
than that checkpoint.
"""

from collections.abc import Callable, Set
import functools
import threading
from types import TracebackType
from typing import Any, Protocol

from absl import logging
import jax

from podrl.agents.parts.interface import Agent
from podrl.config.config import Config
from podrl.envs.source import Source, evaluation_protocol
from podrl.evaluation.endless import EndlessError, EndlessGuard
from podrl.evaluation.play import Episodes, Player, check_same_interface, make_player
from podrl.experience.parameters import copy_to
from podrl.experience.schedule import last_update
from podrl.runtime.ledger import Ledger
from podrl.runtime.waiting import Patience
from podrl.types import Counters, EnvSpec, PyTree

ROW_KEY = "evaluate/return"  # Only rows of evaluations have it.
_JOIN_S = 10.0
_POLL_S = 0.05


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
        """
        self.ledger = ledger or Ledger("evaluator")
        self._every_updates, self._last_update = every_updates, last_update
        self._done = set(done)
        self._timeout_s = timeout_s
        self._play, self._write = play, write
        self._running: Evaluation | None = None

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
            params: result of `Agent.actor_params`; not donated to anything later.
            saves: whether a checkpoint of this update follows.
            should_stop: asked repeatedly during a wait.

        Returns:
            False if `should_stop` ended a wait: then nothing has started.

        Raises:
            EvaluationError: if an evaluation failed.
            TimeoutError: if an evaluation does not end in time; the message says how far it is.
        """
        due = self.is_due(counters)
        if due or saves:
            if not self.settle(should_stop):
                return False
        elif self._running is not None and self._running.join(0.0):
            self._finish(self._running)
        if due:
            self._done.add(counters.learner_steps)
            self._running = Evaluation(self._play, counters, params, self.ledger)
        return True

    def settle(self, should_stop: Callable[[], bool] = lambda: False) -> bool:
        """Waits for a running evaluation and writes it; False if `should_stop` ended the wait. Raises as `add` does."""
        running, patience = self._running, Patience(self._timeout_s)
        if running is None:
            return True
        while not running.join(min(_POLL_S, left_s := patience.left_s())):
            if should_stop():
                return False
            if not left_s:
                raise TimeoutError(
                    f"The learner waited {self._timeout_s:.0f} s for an evaluation: {running.doing()}. If it is this "
                    "slow, raise evaluate.timeout_s or lower evaluate.episodes."
                )
        self._finish(running)
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
        if not running.join(min(self._timeout_s, _JOIN_S)):
            logging.error("The evaluator did not end; leaving without it.")

    def _finish(self, ended: Evaluation) -> None:
        self._running = None
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


def make_evaluator(
    config: Config,
    *,
    agent: Agent,
    spec: EnvSpec,
    source: Source,
    device: jax.Device,
    begun: Counters,
    done: Set[int],
    write: Callable[[Counters, Episodes], None],
) -> Evaluator:
    """Makes the evaluator that a config asks for; it compiles what it needs in its own thread.

    Args:
        config: config of the whole run.
        agent: the algorithm.
        spec: the environment's spec in training.
        source: makes environments.
        device: device to act on.
        begun: counters at which this start of the run begins.
        done: updates that were evaluated before.
        write: called with the episodes.

    Raises:
        ConfigError: if the environment cannot be played by its own protocol.
    """
    if config.evaluate.every_updates == 0:
        return OFF
    protocol = evaluation_protocol(source, config.env)
    check_same_interface(spec, source.make_spec(protocol.env), protocol)

    ledger = Ledger("evaluator")

    @functools.cache
    def player() -> Player:
        return make_player(
            agent,
            spec,
            policy="greedy" if config.evaluate.greedy else "sampled",
            episodes=config.evaluate.episodes,
            device=device,
            make_pool=lambda seeds: source.make_pool(protocol.env, seeds=seeds, num_threads=1),
        )

    def play(
        params: PyTree,
        update: int,
        *,
        show_progress: Callable[[int, int], None],
        should_stop: Callable[[], bool],
    ) -> Episodes:
        with ledger.spend("compile"):
            ready = player()
        guard = EndlessGuard(protocol, show_progress)
        inputs = (copy_to(params, device), config.seed, update)
        return ready.play(*inputs, show_progress=guard, should_stop=should_stop)

    return Evaluator(
        every_updates=config.evaluate.every_updates,
        last_update=last_update(config, begun),
        done=done,
        timeout_s=config.evaluate.timeout_s,
        play=play,
        write=write,
        ledger=ledger,
    )
