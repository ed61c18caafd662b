"""Where a run evaluates and saves, and how it ends; the same in every run loop."""

from collections.abc import Callable
import functools
import math
from typing import Any, cast

from absl import logging

from podrl.agents.parts.nonfinite import check_extra
from podrl.config.config import Config
from podrl.evaluation.evaluator import is_evaluation_due
from podrl.experience.episodes import EpisodeWindow
from podrl.experience.schedule import is_finished, last_update
from podrl.loops.in_flight import InFlight
from podrl.loops.interface import Assembly, Hooks, Outcome, Services
from podrl.runtime.job.job import Job
from podrl.runtime.ledger import OTHER
from podrl.telemetry.metrics_rows import MetricsRows
from podrl.types import Counters, LearnerState, PyTree, Snapshot


class Evaluations:
    """When a run evaluates, and what waits for that; one process plays, and the others wait where it does."""

    def __init__(self, assembly: Assembly, start: Snapshot | None, services: Services, job: Job):
        """Starts no evaluation.

        Args:
            assembly: The run's parts.
            start: Where it resumes; None if it begins.
            services: Its evaluator plays on the first process alone; its `stop` ends long waits.
            job: All processes.
        """
        evaluate = assembly.config.evaluate
        self._evaluator, self._ledger, self._stop = services.evaluator, services.ledger, services.stop
        self._job = job
        self._is_on = evaluate.every_updates > 0
        self._patience_s = assembly.config.actors.timeout_s + evaluate.timeout_s
        self.is_due = functools.partial(
            is_evaluation_due,
            every_updates=evaluate.every_updates,
            last_update=last_update(assembly.config, start.counters if start else Counters()),
        )

    def add(self, counters: Counters, params: PyTree, *, saves: bool, look: Callable[[], object]) -> None:
        """Takes an update that was just launched; see `Evaluator.add`.

        Args:
            counters: After this update.
            params: What `Agent.actor_params` returned.
            saves: Whether a checkpoint follows.
            look: Sees whether the update has ended; called all the time while this waits for an evaluation.
        """

        def should_stop() -> bool:
            look()
            return self._stop.now()

        with self._ledger.spend("evaluate" if self._is_on else OTHER):
            self._evaluator.add(counters, params, saves=saves, should_stop=should_stop)
            if saves or self.is_due(counters):
                self._await_first()

    def settle(self) -> bool:
        """Waits for evaluations under way, and returns whether all that were due have ended."""
        with self._ledger.spend("evaluate"):
            ended = self._evaluator.settle(self._stop.now)
            self._await_first()
        return ended

    def make_up(self, counters: Counters, make_params: Callable[[], PyTree]) -> bool:
        """Makes the evaluations that a run which has made all updates lacks; returns whether they have ended."""
        if self._is_on:  # On all processes, though one evaluates: they hold parts of the parameters.
            self._evaluator.add(counters, make_params())
        with self._ledger.spend("evaluate"):
            ended = self._evaluator.settle(self._stop.now)
            self._await_first()
        return ended

    def _await_first(self) -> None:
        """Waits for evaluations, which the first process alone does; a reduction has a shorter limit of its own."""
        if self._is_on:
            self._job.exchange("evaluation", "", self._patience_s)


class Boundaries:
    """Evaluates and saves a run after the updates where that is due, and at its end."""

    def __init__(
        self,
        assembly: Assembly,
        start: Snapshot,
        rows: MetricsRows,
        flight: InFlight,
        hooks: Hooks,
        services: Services,
        job: Job,
    ):
        """Starts at `start`, which is saved."""
        self._assembly, self._rows, self._flight = assembly, rows, flight
        self._save, self._services = hooks.save, services
        self._evaluations = Evaluations(assembly, start, services, job)
        self._saved = start.counters

    def needs_params(self, counters: Counters) -> bool:
        """Returns whether `add` evaluates this update, on all processes: each has a part of the parameters."""
        return self._evaluations.is_due(counters)

    def needs_state(self, counters: Counters) -> bool:
        """Returns whether `add` saves this update."""
        return is_checkpoint_due(self._assembly.config, counters)

    def add(self, state: LearnerState, counters: Counters, params: PyTree) -> None:
        """Takes an update that was just launched. Waits for it if a checkpoint is due.

        Args:
            state: After this update; unused where `needs_state` is false.
            counters: After this update.
            params: What `Agent.actor_params` returned; None where `needs_params` is false.
        """
        saves = self.needs_state(counters)
        self._evaluations.add(counters, params, saves=saves, look=self._flight.look)
        if saves:
            self._flight.settle()  # An update whose loss is not finite does not become a checkpoint.
            self._rows.leave_out()
            with self._services.ledger.spend("checkpoint"):
                self._store(state, counters)
            self._saved = counters

    def _store(self, state: LearnerState, counters: Counters) -> None:
        """Saves a state; unless updates are skipped, only if all that it holds is finite."""
        if self._assembly.config.on_nonfinite == "stop":
            check_extra(counters.learner_steps, state, self._rows.whose)
        self._save(make_snapshot(state, counters, self._rows))

    def finish(self, state: LearnerState, counters: Counters) -> Outcome:
        """Saves the last update, waits for its evaluation, and returns what the run leaves."""
        self.save_last(state, counters)
        return self.settle(state, counters)

    def save_last(self, state: LearnerState, counters: Counters) -> None:
        """Saves the last update unless it was."""
        if counters != self._saved:
            self._store(state, counters)
            self._saved = counters

    def settle(self, state: LearnerState, counters: Counters) -> Outcome:
        """Waits for the evaluation of the last update, and returns what the run leaves."""
        evaluated = self._evaluations.settle()
        rate, is_offline = self._rows.rates.average, self._assembly.config.is_offline
        return Outcome(
            state=state,
            counters=counters,
            finished=is_finished(self._assembly.config, counters) and evaluated,
            stop_code=self._services.stop.code(),
            env_steps_per_second=0.0 if is_offline else rate,
            samples_per_second=rate if is_offline else math.nan,
            compile_s=self._services.ledger.seconds()["compile"],
            episode_return=self._rows.episode_return,
            episodes=self._rows.num_episodes,
        )


def nothing_to_do(assembly: Assembly, start: Snapshot, services: Services, job: Job, *, tells: bool = True) -> Outcome:
    """The outcome of a run that had already made all of its updates; evaluates the last one if that is missing.

    Args:
        assembly: The run's parts.
        start: Where it stands.
        services: What evaluates.
        job: All processes.
        tells: Whether to log that there is nothing to do.
    """
    evaluations = Evaluations(assembly, start, services, job)
    evaluated = evaluations.make_up(
        start.counters, functools.partial(cast(Any, assembly.learner).actor_params, start.state)
    )
    if tells:
        steps = f"it has {start.counters.env_steps:,} env steps, in" if start.counters.env_steps else "it has made"
        logging.info("This run is finished: %s %d updates.", steps, start.counters.learner_steps)
    episodes = EpisodeWindow(assembly.config.log.episodes, start.episodes)
    return Outcome(
        state=start.state,
        counters=start.counters,
        finished=evaluated,
        stop_code=services.stop.code(),
        env_steps_per_second=float("nan"),
        compile_s=0.0,
        episode_return=episodes.summary().get("episode/return"),
        episodes=len(episodes),
    )


def make_snapshot(state: LearnerState, counters: Counters, rows: MetricsRows) -> Snapshot:
    """Where a run stands; its last update has been settled."""
    return Snapshot(
        state=state, counters=counters, episodes=rows.record_episodes(), chain=rows.chain, wall_s=rows.wall_s
    )


def is_checkpoint_due(config: Config, counters: Counters) -> bool:
    """Whether the update that was just counted ends with a checkpoint; the same on every process."""
    every = config.checkpoint.every_updates
    return every > 0 and counters.learner_steps > 0 and counters.learner_steps % every == 0
