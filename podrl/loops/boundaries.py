"""Where a run evaluates and saves, and how it ends; the same in every run loop."""

import functools
import math
from typing import Any, cast

from absl import logging

from podrl.agents.parts.nonfinite import check_extra
from podrl.config.config import Config
from podrl.experience.episodes import EpisodeWindow
from podrl.experience.schedule import is_finished
from podrl.loops.evaluations import Evaluations
from podrl.loops.in_flight import InFlight
from podrl.loops.interface import Assembly, Hooks, Outcome, Services
from podrl.runtime.job.job import Job
from podrl.telemetry.metrics_rows import MetricsRows
from podrl.types import Counters, LearnerState, PyTree, Snapshot


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

    def begin(self, params: PyTree) -> None:
        """Starts the evaluations that are missing so far; see `Evaluations.begin`."""
        self._evaluations.begin(self._saved, params)

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
