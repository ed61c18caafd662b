"""The Sebulba run loop: actor threads on the actor submesh, the learner on the learner submesh, at a fixed policy lag.

The main thread is the learner. Update n takes rollout n of every actor, in a fixed order. With `actors.lag=1` rollout n
was made with the parameters of update n-2 while update n-1 ran, with 0 after it, with more earlier still
(`podrl.experience.schedule`). So what is learned depends on the order of things only, not on the timing of threads.
With `determinism='free'` the lag is bounded instead of fixed.

Source: the Sebulba architecture of Hessel et al. 2021, arXiv:2104.06272; the fixed lag of Huang et al. 2023 (Cleanba),
arXiv:2310.00036.
"""

import functools
import time

from podrl.agents.parts.nonfinite import NonFiniteError
from podrl.experience.actor_threads import ActorThreads, finished_episodes
from podrl.experience.actors import ActorError
from podrl.experience.schedule import is_finished, make_schedule
from podrl.experience.transfer import join_rollouts
from podrl.learning.programs import Programs
from podrl.loops.bookkeeping import count_updates, explain_nonfinite, make_rows, prepare, tell_of_timeout, watch_learner
from podrl.loops.boundaries import Boundaries, nothing_to_do
from podrl.loops.evaluations import Evaluations
from podrl.loops.in_flight import InFlight
from podrl.loops.interface import Assembly, Hooks, Outcome, Services
from podrl.runtime.job.job import ALONE, Job
from podrl.runtime.ledger import Ledger
from podrl.types import Snapshot


def run(
    assembly: Assembly,
    *,
    start: Snapshot | None = None,
    hooks: Hooks | None = None,
    services: Services | None = None,
    job: Job = ALONE,
    programs: Programs | None = None,
) -> Outcome:
    """Trains until `total_env_steps` are consumed, or until told to stop.

    Args:
        assembly: The run's parts.
        start: Where the run resumes, its state on the learner's devices and consumed; None if it begins.
        hooks: Functions to call.
        services: What watches the run and tells it to stop.
        job: All processes.
        programs: Compiled before, of the same assembly; good for any number of runs. By default compiled here.

    Raises:
        ConfigError: If the environments do not divide over actors and devices.
        ActorError: If an actor thread failed.
        EvaluationError: If the evaluator's thread failed.
        TimeoutError: If a thread waited for another for longer than `actors.timeout_s`.
        RuntimeError: If a loss or gradient is not finite and `on_nonfinite='stop'`.
    """
    hooks, services = hooks or Hooks(), services or Services()
    config, ledger, stop = assembly.config, services.ledger, services.stop
    if start is not None and is_finished(config, start.counters):
        return nothing_to_do(assembly, start, services, job)
    start_s = time.perf_counter()
    programs, start = prepare(assembly, programs, start, hooks, services, job)
    learner, state, counters = programs.learner, start.state, start.counters
    hooks.show_phase("starting environments")
    params = learner.actor_params(state)
    Evaluations(assembly, start, services, job).begin(counters, params)
    schedule = make_schedule(config, counters)
    actors = ActorThreads(config, assembly.source, assembly.topology, programs.acting, schedule, services.annotate)
    actors.watch(services.watchdog)
    watch_learner(services, lambda: _describe(ledger, actors, counters.learner_steps))
    ledgers = [actor.ledger for actor in actors.actors]
    rows = make_rows(*(assembly, start, hooks, services, job), start_s=start_s, actors=ledgers, totals=actors.totals)
    flight = InFlight(
        ledger, rows.mark, timeout_s=config.actors.timeout_s, whose="its", remedy="raise actors.timeout_s"
    )
    boundaries = Boundaries(assembly, start, rows, flight, hooks, services, job)
    with actors:
        try:
            actors.publish(counters.learner_steps, params)
            if not stop.code():
                actors.start()
            while not is_finished(config, counters) and not stop.code():
                hooks.before_update(counters, rows.ended)
                # The learner blocks here: for its last update as long as that runs, and then for rollouts.
                flight.wait(unless=lambda: actors.are_decided() or stop.at_once())
                with ledger.spend("wait_rollouts"):
                    rollouts = actors.take(counters.learner_steps, stop.at_once)
                if rollouts is None:
                    break
                if counters == start.counters:
                    hooks.show_phase("first update")
                with ledger.spend("learn"):
                    batch = join_rollouts(rollouts, assembly.topology)
                    state, metrics = learner.update(state, batch)
                with ledger.spend("log"):
                    hooks.take_rollouts(counters, rollouts)
                counters = count_updates(config, assembly.spec, counters)
                state = hooks.between(state, counters)
                with ledger.spend("publish"):
                    params = learner.actor_params(state)
                    actors.publish(counters.learner_steps, params)
                fingerprint = functools.partial(learner.fingerprint, state, batch)
                update = rows.launched(counters, metrics, finished_episodes(rollouts), fingerprint)
                flight.add(f"update {counters.learner_steps}", metrics, functools.partial(rows.enter, update))
                boundaries.add(state, counters, params)
            flight.settle()
            rows.finish(lambda: learner.fingerprint(state, batch))
        except NonFiniteError as error:
            in_batch = actors.nonfinite(error.update - 1)
            raise explain_nonfinite(error, config, start.counters, counters, state, in_batch) from None
        except (TimeoutError, ActorError) as error:
            tell_of_timeout(error, services)
            raise
    return boundaries.finish(state, counters)


def _describe(ledger: Ledger, actors: ActorThreads, updates: int) -> str:
    """What the main thread does now, for messages, and for whom it waits if it does."""
    bucket, seconds = ledger.doing()
    awaited = actors.awaited() if bucket == "wait_rollouts" else ""
    waits = f", waiting for a rollout of {awaited}" if awaited else ""
    return f"learner has been in {bucket!r} for {seconds:.1f} s, after update {updates}{waits}"
