"""The offline run loop: nothing acts, and the learner learns from a data set.

Update n learns from samples that are a pure function of the run's seed and n. So a run resumes exactly from any
checkpoint, and how early samples are made is a matter of speed alone: a thread puts those of the next updates on the
devices, or the update draws them itself from rows that are there. The environment is played by evaluations only.

Source: the setting of Levine et al. 2020, Offline reinforcement learning, arXiv:2005.01643.
"""

import dataclasses
import functools
import time

from podrl.agents.parts.nonfinite import NonFiniteError
from podrl.experience.schedule import is_finished, last_update
from podrl.learning.feed import Feed
from podrl.learning.programs import Programs
from podrl.loops.bookkeeping import count_updates, explain_nonfinite, make_rows, prepare, tell_of_timeout, watch_learner
from podrl.loops.boundaries import Boundaries, nothing_to_do
from podrl.loops.evaluations import Evaluations
from podrl.loops.in_flight import InFlight
from podrl.loops.interface import Assembly, Hooks, Outcome, Services
from podrl.loops.recorded_start import observe_data, open_samples
from podrl.runtime.job.job import ALONE, Job
from podrl.runtime.ledger import Ledger
from podrl.types import Counters, Snapshot


def run(
    assembly: Assembly,
    *,
    start: Snapshot | None = None,
    hooks: Hooks | None = None,
    services: Services | None = None,
    job: Job = ALONE,
    programs: Programs | None = None,
) -> Outcome:
    """Trains until `total_updates` are made, or until told to stop.

    Args:
        assembly: The run's parts.
        start: Where the run resumes, its state on the learner's devices and consumed; None if it begins.
        hooks: Functions to call.
        services: What watches the run and tells it to stop.
        job: All processes.
        programs: Compiled before, of the same assembly; good for any number of runs. By default compiled here.

    Raises:
        ConfigError: If the data set is damaged.
        DataError: If a shard is that is read only later.
        EvaluationError: If the evaluator's thread failed.
        TimeoutError: If samples or an update take longer than `actors.timeout_s`.
        RuntimeError: If a loss or gradient is not finite and `on_nonfinite='stop'`.
    """
    hooks, services = hooks or Hooks(), services or Services()
    config, ledger, stop = assembly.config, services.ledger, services.stop
    if start is not None and is_finished(config, start.counters):
        return nothing_to_do(assembly, start, services, job)
    start_s, begins = time.perf_counter(), start is None
    with open_samples(assembly, start, hooks, services, job) as feed:
        programs, start = prepare(assembly, programs, start, hooks, services, job)
        if begins:
            start = observe_data(assembly, start, hooks, services, job)
            # Statistics under which the weights were learned take precedence over those of the data set.
            start = dataclasses.replace(start, state=hooks.begin(start.state))
        hooks.show_phase("first samples")
        learner, state, counters = programs.learner, start.state, start.counters
        Evaluations(assembly, start, services, job).begin(counters, learner.actor_params(state))
        feed.start(first=counters.learner_steps, last=last_update(config, counters), annotate=services.annotate)
        feed.watch(services.watchdog)
        watch_learner(services, lambda: _describe(ledger, feed, counters))
        rows = make_rows(*(assembly, start, hooks, services, job), start_s=start_s, actors=feed.ledgers)
        remedy = "lower data.learner_steps or raise actors.timeout_s"
        flight = InFlight(ledger, rows.mark, timeout_s=config.actors.timeout_s, whose="its", remedy=remedy)
        boundaries = Boundaries(assembly, start, rows, flight, hooks, services, job)
        try:
            while not is_finished(config, counters) and not stop.code():
                hooks.before_update(counters, rows.ended)
                # The learner blocks here: for its last update as long as that runs, and then for samples.
                flight.wait(unless=lambda: feed.is_ready() or stop.at_once())
                with ledger.spend("wait_data"):
                    given = feed.take(counters.learner_steps, stop.at_once)
                if given is None:
                    break
                samples = given  # Those of the last update stay for its row.
                if counters == start.counters:
                    hooks.show_phase("first update")
                with ledger.spend("learn"):
                    state, metrics = learner.update(state, samples)
                counters = count_updates(config, assembly.spec, counters)
                state = hooks.between(state, counters)
                params = learner.actor_params(state) if boundaries.needs_params(counters) else None
                update = rows.launched(counters, metrics, (), functools.partial(learner.fingerprint, state, samples))
                flight.add(f"update {counters.learner_steps}", metrics, functools.partial(rows.enter, update))
                boundaries.add(state, counters, params)
            flight.settle()
            rows.finish(lambda: learner.fingerprint(state, samples))
        except NonFiniteError as error:
            raise explain_nonfinite(error, config, start.counters, counters, state) from None
        except TimeoutError as error:
            tell_of_timeout(error, services)
            raise
    return boundaries.finish(state, counters)


def _describe(ledger: Ledger, feed: Feed, counters: Counters) -> str:
    """What the main thread does now, for messages, and for whom it waits if it does."""
    bucket, seconds = ledger.doing()
    awaited = feed.awaited() if bucket == "wait_data" else ""
    return f"learner has been in {bucket!r} for {seconds:.1f} s, after update {counters.learner_steps}{awaited}"
