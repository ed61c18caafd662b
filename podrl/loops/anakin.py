"""The Anakin run loop: environments, acting and learning in one compiled program on every device.

The main thread calls the program for several updates at a time and accounts for each call while the next one runs. A
call ends wherever there is something to do on the host: a row of metrics, a checkpoint, an evaluation. The newest
parameters always act. The environments are a part of the state, so a run that was stopped resumes where it was. With
`topology.seeds` above 1 a call makes the updates of all seeds.

Source: the Anakin architecture of Hessel et al. 2021, arXiv:2104.06272.
"""

from collections.abc import Sequence
import functools
import time
from typing import cast

from podrl.agents.parts.nonfinite import NonFiniteError
from podrl.config.config import Config
from podrl.experience.schedule import is_finished, last_update
from podrl.learning.programs import FusedPrograms
from podrl.loops.bookkeeping import count_updates, explain_nonfinite, prepare, tell_of_timeout, watch_learner
from podrl.loops.in_flight import InFlight
from podrl.loops.interface import Assembly, Hooks, Outcome, SeedRun, Services
from podrl.loops.seed_records import SeedRecords, join_starts, nothing_to_do_for_seeds
from podrl.runtime.job.job import ALONE, Job
from podrl.runtime.ledger import Ledger
from podrl.types import Counters, FusedState, Snapshot


def run(
    assembly: Assembly,
    *,
    start: Snapshot | None = None,
    hooks: Hooks | None = None,
    services: Services | None = None,
    job: Job = ALONE,
    programs: FusedPrograms | None = None,
    seeds: Sequence[SeedRun] = (),
) -> Outcome:
    """Trains until `total_env_steps` are consumed, or until told to stop.

    Args:
        assembly: The run's parts.
        start: Where the run resumes, its state (a `FusedState`) on the devices and consumed; None if it begins.
        hooks: Functions to call.
        services: What watches the run and tells it to stop.
        job: All processes.
        programs: Compiled before, of the same assembly; good for any number of runs. By default compiled here.
        seeds: Each seed, with its own start, rows, checkpoints and evaluations, which take precedence over those of
            `start`, `hooks` and `services`. Needed with `topology.seeds` above 1.

    Raises:
        ConfigError: If the environments do not divide over the devices, or are not JAX programs.
        EvaluationError: If the evaluator's thread failed.
        TimeoutError: If a call takes longer than `actors.timeout_s`.
        RuntimeError: If a loss or gradient is not finite and `on_nonfinite='stop'`.
    """
    hooks, services = hooks or Hooks(), services or Services()
    seeds = seeds or (SeedRun(assembly=assembly, start=start, hooks=hooks, services=services),)
    config, ledger, stop = assembly.config, services.ledger, services.stop
    if (found := seeds[0].start) is not None and is_finished(config, found.counters):
        return nothing_to_do_for_seeds(seeds, job)
    start_s = time.perf_counter()
    programs, start = prepare(assembly, programs, join_starts(assembly.learner, seeds), hooks, services, job)
    learner, state, counters = programs.learner, cast(FusedState, start.state), start.counters
    watch_learner(services, lambda: _describe(ledger, counters.learner_steps))
    records = SeedRecords(seeds, learner, job, start_s=start_s)
    remedy = "lower topology.updates_per_call or raise actors.timeout_s"
    flight = InFlight(ledger, records.mark, timeout_s=config.actors.timeout_s, whose="their", remedy=remedy)
    records.begin(flight, state)
    try:
        while not is_finished(config, counters) and not stop.code():
            hooks.before_update(counters, records.ended)
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
            flight.add(name, report, functools.partial(records.enter, call, report))
            records.add(state, counters)
        flight.settle()
        records.finish_rows(lambda: report.fingerprint)
    except NonFiniteError as error:
        raise explain_nonfinite(error, config, start.counters, counters, state) from None
    except TimeoutError as error:
        tell_of_timeout(error, services)
        raise
    return records.finish(state, counters)


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
