"""The Anakin run loop: environments, acting and learning in one compiled program on every device.

The main thread calls the program for several updates at a time and accounts for each call while the next one runs. A
call ends wherever there is something to do on the host: a row of metrics, a checkpoint, an evaluation. The newest
parameters always act. The environments are a part of the state, so a run that was stopped resumes where it was.

Source: the Anakin architecture of Hessel et al. 2021, arXiv:2104.06272.
"""

from collections.abc import Sequence
import functools
import math
import operator
import time
from typing import cast

import jax
import numpy as np

from podrl.agents.parts.nonfinite import NonFiniteError
from podrl.config.config import Config
from podrl.experience.episodes import Episode
from podrl.experience.in_graph_unroll import EndedEpisodes
from podrl.experience.schedule import is_finished, last_update
from podrl.learning.fused import Report
from podrl.learning.programs import FusedPrograms
from podrl.loops.bookkeeping import count_updates, explain_nonfinite, make_rows, prepare, tell_of_timeout, watch_learner
from podrl.loops.boundaries import Boundaries, nothing_to_do
from podrl.loops.in_flight import InFlight
from podrl.loops.interface import Assembly, Hooks, Outcome, Services
from podrl.runtime.job.job import ALONE, Job
from podrl.runtime.ledger import Ledger
from podrl.telemetry.metrics_rows import MetricsRows
from podrl.telemetry.rates import End
from podrl.types import Counters, FusedState, Snapshot


def run(
    assembly: Assembly,
    *,
    start: Snapshot | None = None,
    hooks: Hooks | None = None,
    services: Services | None = None,
    job: Job = ALONE,
    programs: FusedPrograms | None = None,
) -> Outcome:
    """Trains until `total_env_steps` are consumed, or until told to stop.

    Args:
        assembly: The run's parts.
        start: Where the run resumes, its state (a `FusedState`) on the devices and consumed; None if it begins.
        hooks: Functions to call.
        services: What watches the run and tells it to stop.
        job: All processes.
        programs: Compiled before, of the same assembly; good for any number of runs. By default compiled here.

    Raises:
        ConfigError: If the environments do not divide over the devices, or are not JAX programs.
        EvaluationError: If the evaluator's thread failed.
        TimeoutError: If a call takes longer than `actors.timeout_s`.
        RuntimeError: If a loss or gradient is not finite and `on_nonfinite='stop'`.
    """
    hooks, services = hooks or Hooks(), services or Services()
    config, ledger, stop = assembly.config, services.ledger, services.stop
    if start is not None and is_finished(config, start.counters):
        return nothing_to_do(assembly, start, services, job)
    start_s = time.perf_counter()
    programs, start = prepare(assembly, programs, start, hooks, services, job)
    learner, state, counters = programs.learner, cast(FusedState, start.state), start.counters
    watch_learner(services, lambda: _describe(ledger, counters.learner_steps))
    rows = make_rows(assembly, start, hooks, services, job, start_s=start_s)
    remedy = "lower topology.updates_per_call or raise actors.timeout_s"
    flight = InFlight(ledger, rows.mark, timeout_s=config.actors.timeout_s, whose="their", remedy=remedy)
    boundaries = Boundaries(assembly, start, rows, flight, hooks, services, job)
    if boundaries.needs_params(counters):
        services.evaluator.add(counters, learner.actor_params(state))
    try:
        while not is_finished(config, counters) and not stop.code():
            hooks.before_update(counters, rows.ended)
            if counters == start.counters:
                hooks.show_phase("first update")
            num = updates_to_next_stop(config, counters, learner.max_updates, hooks.between_every)
            with ledger.spend("learn"):
                state, report = learner.run(state, num)
            call = [count_updates(config, assembly.spec, counters, 1 + index) for index in range(num)]
            counters = call[-1]
            state = hooks.between(state, counters)
            name = f"updates {call[0].learner_steps} to {counters.learner_steps}"
            # The learner blocks here, until the call before this one has ended.
            flight.add(name, report, functools.partial(_enter, rows, call, report, learner.info_names))
            params = learner.actor_params(state) if boundaries.needs_params(counters) else None
            boundaries.add(state, counters, params)
        flight.settle()
        rows.finish(lambda: report.fingerprint)
    except NonFiniteError as error:
        raise explain_nonfinite(error, config, start.counters, counters, state) from None
    except TimeoutError as error:
        tell_of_timeout(error, services)
        raise
    return boundaries.finish(state, counters)


def updates_to_next_stop(config: Config, counters: Counters, limit: int, between_every: int = 0) -> int:
    """Updates until the next that has a row, a checkpoint, an evaluation or a hook, or until the last; at most `limit`.

    The first update has a row, too.
    """
    done = counters.learner_steps
    intervals = (config.log.every_updates, config.checkpoint.every_updates, config.evaluate.every_updates)
    stops = [done + every - done % every for every in (*intervals, between_every) if every]
    last = last_update(config, counters)
    return min(limit, *(stop - done for stop in stops), last - done, *([] if done else [1]))


def _describe(ledger: Ledger, updates: int) -> str:
    bucket, seconds = ledger.doing()
    return f"learner has been in {bucket!r} for {seconds:.1f} s; launched are {updates} updates"


def _enter(rows: MetricsRows, call: Sequence[Counters], report: Report, names: Sequence[str], end: End) -> None:
    """Enters the updates of a call that has ended.

    Raises:
        NonFiniteError: If the loss or gradient of an update is not finite.
    """
    metrics = jax.device_get(dict(report.metrics))
    episodes = jax.tree.map(_local_rows, report.episodes)
    for index, counters in enumerate(call):
        values = {name: column[index] for name, column in metrics.items()}
        ended = _ended(jax.tree.map(operator.itemgetter(index), episodes), names)
        rows.enter(rows.launched(counters, values, ended, lambda: report.fingerprint), end)


def _local_rows(array: jax.Array) -> np.ndarray:
    """This process's environments of an array [K, T, B], in their order."""
    shards = {shard.index[2].start or 0: shard for shard in array.addressable_shards}
    return np.concatenate([np.asarray(shards[start].data) for start in sorted(shards)], axis=2)


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
