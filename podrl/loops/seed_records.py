"""What the Anakin loop keeps of its seeds: rows of metrics, and boundaries with their evaluations and checkpoints.

A run of one seed is a run of several with one.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import math
import operator
from typing import Any, cast

import jax
import numpy as np

from podrl.envs.workers.calls import EnvFailure
from podrl.experience.episodes import Episode
from podrl.experience.in_graph_unroll import EndedEpisodes
from podrl.learning.fused import FusedLearner
from podrl.learning.fused_report import Report, fetch_reports
from podrl.learning.seeds import SeedsLearner
from podrl.loops.bookkeeping import make_rows
from podrl.loops.boundaries import Boundaries, nothing_to_do
from podrl.loops.in_flight import InFlight
from podrl.loops.interface import Outcome, SeedRun
from podrl.runtime.job.job import Job
from podrl.telemetry.metrics_rows import MetricsRows
from podrl.telemetry.rates import End
from podrl.types import Counters, FusedState, Snapshot


class SeedRecords:
    """The rows and boundaries of each seed of a run.

    Attributes:
        mark: () -> the end of a call that is seen to end now.
    """

    def __init__(
        self,
        seeds: Sequence[SeedRun],
        learner: FusedLearner | SeedsLearner,
        job: Job,
        *,
        start_s: float,
    ):
        """Starts without a row.

        Args:
            seeds: The seeds of the run.
            learner: Makes their updates.
            job: All processes.
            start_s: When this process began to train, by `time.perf_counter`.
        """
        self._learner, self._job = learner, job
        self._seeds = [dataclasses.replace(seed, start=seed.start or _fresh()) for seed in seeds]
        self._rows = [
            make_rows(
                *(seed.assembly, cast(Snapshot, seed.start), seed.hooks, seed.services, job),
                start_s=start_s,
                whose=f" of seed {seed.assembly.config.seed}" if len(seeds) > 1 else "",
            )
            for seed in self._seeds
        ]
        self._boundaries: list[Boundaries] = []
        self.mark = self._rows[0].mark

    @property
    def ended(self) -> Counters:
        """After the newest update that has ended."""
        return self._rows[0].ended

    def begin(self, flight: InFlight, state: FusedState) -> None:
        """Takes what the loop has in flight and the first state, and starts the evaluations that are missing so far."""
        for index, (seed, rows) in enumerate(zip(self._seeds, self._rows, strict=True)):
            start = cast(Snapshot, seed.start)
            boundary = Boundaries(seed.assembly, start, rows, flight, seed.hooks, seed.services, self._job)
            self._boundaries.append(boundary)
            if seed.assembly.config.evaluate.every_updates:
                boundary.begin(self._learner.actor_params(state, index))

    def enter(self, call: Sequence[Counters], report: Report, end: End) -> None:
        """Enters the updates of a call that has ended, of one seed after the other.

        Args:
            call: The counters after each update.
            report: What the call reports of them.
            end: The end of the call.

        Raises:
            NonFiniteError: If the loss or gradient of an update is not finite.
            EnvFailure: If an action mask allowed nothing.
        """
        for rows, found in zip(self._rows, fetch_reports(report, self._learner.num_seeds), strict=True):
            _check_masks(found, call, rows.whose, self._seeds[0].assembly.spec.id)
            _enter(rows, call, found, self._learner.info_names, end)

    def add(self, state: FusedState, counters: Counters) -> None:
        """Evaluates and saves each seed where that is due after a call that was just launched."""
        for index, boundary in enumerate(self._boundaries):
            mine = self._learner.take(state, index) if boundary.needs_state(counters) else state
            params = self._learner.actor_params(state, index) if boundary.needs_params(counters) else None
            boundary.add(mine, counters, params)

    def finish_rows(self, fingerprint: Callable[[], jax.Array]) -> None:
        """Writes a row of the newest update if it had none; `fingerprint` returns those of the last call."""
        for index, rows in enumerate(self._rows):
            rows.finish(functools.partial(self._of_seed, fingerprint, index))

    def finish(self, state: FusedState, counters: Counters) -> Outcome:
        """Saves the last update of each seed, then waits for their evaluations, and returns what the run leaves."""
        states = [self._learner.take(state, index) for index in range(len(self._boundaries))]
        for boundary, mine in zip(self._boundaries, states, strict=True):
            boundary.save_last(mine, counters)
        ends = zip(self._boundaries, states, strict=True)
        return join_outcomes([boundary.settle(mine, counters) for boundary, mine in ends])

    def _of_seed(self, fingerprint: Callable[[], jax.Array], index: int) -> jax.Array:
        return fingerprint() if self._learner.num_seeds == 1 else fingerprint()[index]


def _check_masks(found: Report, call: Sequence[Counters], whose: str, env_id: str) -> None:
    """Raises `EnvFailure` if the action mask of an environment allowed nothing, as no policy is defined there."""
    for num_stuck in jax.tree.leaves(found.num_stuck):
        for counters, num in zip(call, num_stuck.tolist(), strict=False):  # Rows after the last update are zeros.
            if num:
                raise EnvFailure(
                    f"Update {counters.learner_steps}{whose}: in {num} steps the action mask of env.id={env_id!r} "
                    "allows no action. An environment must allow one, or end the episode."
                )


def _enter(rows: MetricsRows, call: Sequence[Counters], found: Report, names: Sequence[str], end: End) -> None:
    """Enters the updates of one seed."""
    for index, counters in enumerate(call):
        values = {name: column[index] for name, column in found.metrics.items()}
        ended = _ended(jax.tree.map(operator.itemgetter(index), found.episodes), names)
        rows.enter(rows.launched(counters, values, ended, lambda: found.fingerprint), end)


def join_starts(learner: Any, seeds: Sequence[SeedRun]) -> Snapshot | None:
    """Returns where all seeds resume, with the state of all of them; None if they begin.

    Args:
        learner: The run's.
        seeds: The seeds, each at the same counters. Of several the states are consumed.
    """
    starts = [seed.start for seed in seeds if seed.start is not None]
    if not starts or len(seeds) == 1:
        return starts[0] if starts else None
    return dataclasses.replace(starts[0], state=learner.stack([start.state for start in starts]))


def nothing_to_do_for_seeds(seeds: Sequence[SeedRun], job: Job) -> Outcome:
    """The outcome of a run whose seeds had made all updates; evaluates the last one where that is missing."""
    found = [
        nothing_to_do(each.assembly, cast(Snapshot, each.start), each.services, job, tells=index == 0)
        for index, each in enumerate(seeds)
    ]
    return join_outcomes(found)


def join_outcomes(outcomes: Sequence[Outcome]) -> Outcome:
    """Returns the outcome of a run of these seeds."""
    if len(outcomes) == 1:
        return outcomes[0]
    returns = [outcome.episode_return for outcome in outcomes if outcome.episode_return is not None]
    return dataclasses.replace(
        outcomes[0],
        finished=all(outcome.finished for outcome in outcomes),
        env_steps_per_second=sum(outcome.env_steps_per_second for outcome in outcomes),
        episode_return=float(np.mean(returns)) if returns else None,
        episodes=sum(outcome.episodes for outcome in outcomes),
        seeds=tuple(outcomes),
    )


def _fresh() -> Snapshot:
    """Where a seed begins; its state is among those of the run."""
    return Snapshot(state=cast(Any, None), counters=Counters(), episodes={})


def _ended(found: EndedEpisodes, names: Sequence[str]) -> list[Episode]:
    """The episodes [T, B] whose length is not 0, by row and then by environment, with their numbers of `info`."""
    ends = np.asarray(found.lengths) > 0
    columns = (np.asarray(column)[ends].tolist() for column in (found.returns, found.lengths))
    if not names:
        return list(map(Episode, *columns))
    numbers = [
        {name: number for name, number in zip(names, row, strict=True) if not math.isnan(number)}
        for row in np.asarray(found.numbers)[ends].tolist()
    ]
    return list(map(Episode, *columns, numbers))
