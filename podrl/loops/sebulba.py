"""The Sebulba run loop: actor threads on the actor submesh, the learner on the learner submesh, lag fixed at one.

The main thread is the learner. Update n takes rollout n of every actor, in a fixed order; rollout n was made with the
parameters of update n-2 while update n-1 ran (if synchronous, and at boundaries, with the newest:
`podrl.experience.schedule`). So what is learned depends on the order of things only, not on the timing of threads. With
`determinism='free'` the lag is bounded instead of fixed.

Source: the Sebulba architecture of Hessel et al. 2021, arXiv:2104.06272; the fixed lag of Huang et al. 2023 (Cleanba),
arXiv:2310.00036.
"""

from collections.abc import Callable, Sequence
import functools
import math
import time

from absl import logging

from podrl.agents.parts.nonfinite import NonFiniteError
from podrl.config.config import Config
from podrl.envs.source import Source
from podrl.evaluation.evaluator import OFF, Evaluator
from podrl.experience.actor_threads import join_actors, make_actors, stop_actors
from podrl.experience.actors import Actor, ActorError
from podrl.experience.handoff import Rollout
from podrl.experience.schedule import is_finished, make_schedule
from podrl.experience.transfer import ParameterStore
from podrl.learning.learner import Learner
from podrl.learning.programs import Programs, compile_programs
from podrl.loops.bookkeeping import (
    COMPILE_S,
    Evaluations,
    Outcome,
    count_updates,
    explain_nonfinite,
    first_snapshot,
    is_checkpoint_due,
    make_journal,
    make_outcome,
    make_snapshot,
    nothing_to_do,
)
from podrl.mesh import ShardingRule, Topology
from podrl.runtime.job.job import ALONE, Job
from podrl.runtime.ledger import OTHER, Annotate, Ledger
from podrl.runtime.waiting import Stopped
from podrl.runtime.watchdog import Watchdog, Watched
from podrl.telemetry.metrics_file import Row
from podrl.telemetry.metrics_rows import Journal
from podrl.types import Agent, Counters, EnvSpec, Snapshot


def run(
    config: Config,
    *,
    agent: Agent,
    spec: EnvSpec,
    source: Source,
    topology: Topology,
    rules: Sequence[ShardingRule] = (),
    programs: Programs | None = None,
    start: Snapshot | None = None,
    show_phase: Callable[[str], None] = lambda text: None,
    write_row: Callable[[Row], None] = lambda row: None,
    save: Callable[[Snapshot], None] = lambda snapshot: None,
    should_stop: Callable[[], int] = lambda: 0,
    give_up: Callable[[], bool] | None = None,
    before_update: Callable[[int], None] = lambda update: None,
    evaluator: Evaluator = OFF,
    annotate: Annotate | None = None,
    ledger: Ledger | None = None,
    watchdog: Watchdog | None = None,
    job: Job = ALONE,
) -> Outcome:
    """Trains until `total_env_steps` are consumed, or until told to stop.

    Args:
        config: of the whole run.
        agent: the algorithm.
        spec: the environment, as `source` describes it.
        source: makes environments.
        topology: who acts and who learns.
        rules: layout of wide parameters on the learner mesh.
        programs: compiled before, with the same arguments, and good for any number of runs; by default compiled here.
        start: where to go on, its state on the learner's devices and consumed; by default the run begins.
        show_phase: told what happens before training.
        write_row: takes each row of metrics.
        save: writes a checkpoint; called every `checkpoint.every_updates` and at the end.
        should_stop: asked before the actors start and before every update; anything but 0 ends the run. On several
            processes it must say the same on all of them.
        give_up: asked all the time while an update runs or rollouts do not come; on one process the run then ends
            before the next update. By default `should_stop`.
        before_update: told the number of the update, from 1, before its rollouts are taken.
        evaluator: plays with some updates' parameters; the caller closes it.
        annotate: shows a profiler what each thread spends its time on.
        ledger: of the main thread; by default one that starts here.
        watchdog: watches every thread; by default nobody does.
        job: which process of how many this is.

    Raises:
        ConfigError: if the environments do not divide over actors and devices.
        ActorError: if an actor thread failed.
        EvaluationError: if the evaluator's did.
        TimeoutError: if a thread waited for another for longer than `actors.timeout_s`.
        RuntimeError: if a loss or gradient is not finite and `on_nonfinite='stop'`.
    """
    ledger = ledger or Ledger("learner", annotate=annotate)
    watchdog = watchdog or Watchdog(math.inf)
    give_up = give_up or (lambda: bool(should_stop()))
    evaluations = Evaluations(config, start, evaluator, job, ledger, give_up)
    if start is not None and is_finished(config, start.counters):
        learner = Learner(agent, topology.learner, rules)
        evaluated = evaluations.make_up(start.counters, functools.partial(learner.actor_params, start.state))
        return nothing_to_do(config, start, finished=evaluated, stop_code=int(should_stop()))
    start_s = time.perf_counter()
    show_phase("compiling")
    with ledger.spend("compile" if programs is None else OTHER):
        programs = programs or compile_programs(config, agent, spec, topology, rules)
        job.exchange("programs compiled", "", COMPILE_S)  # What follows is quick, so that others need not wait long.
        start = start or first_snapshot(programs.learner.init, config.seed)
    state, counters, saved = start.state, start.counters, start.counters
    schedule = make_schedule(config, counters)
    show_phase("starting environments")
    parameters = ParameterStore(topology.local_actor_devices, keep=1 + schedule.max_lag)
    params = programs.learner.actor_params(state)
    parameters.publish(counters.learner_steps, params)
    evaluator.add(counters, params)
    actors = make_actors(config, source, topology, programs.acting, parameters, schedule, annotate)
    doing = functools.partial(describe_learner, ledger, actors)
    watchdog.watch(Watched(ledger=ledger, doing=lambda: doing(counters), is_alive=lambda: True))
    for actor in actors:
        watchdog.watch(Watched(ledger=actor.ledger, doing=actor.doing, is_alive=actor.is_alive))
    journal = make_journal(
        config,
        spec,
        start,
        job,
        start_s=start_s,
        learner=ledger,
        actors=[actor.ledger for actor in actors],
        write=write_row,
    )
    try:
        for actor in actors if not should_stop() else ():
            actor.start()
        while not is_finished(config, counters) and not should_stop():
            before_update(counters.learner_steps + 1)
            try:
                # Others would wait for this process in a reduction, so it may not leave on its own.
                rollouts = take_rollouts(actors, ledger, journal, give_up if job.process_count == 1 else lambda: False)
            except Stopped:
                break
            if counters == start.counters:
                show_phase("first update")
            check_lag(rollouts, schedule.versions(counters.learner_steps))
            with ledger.spend("learn"):
                batch = join_actors(rollouts, topology)
                state, metrics = programs.learner.update(state, batch)
            counters = count_updates(config, spec, counters)
            with ledger.spend("publish"):
                params = programs.learner.actor_params(state)
                parameters.publish(counters.learner_steps, params)
            fingerprint = programs.learner.fingerprint(state, batch) if journal.wants_row(counters) else None
            journal.add(counters, metrics, fingerprint, finished_episodes(rollouts))
            saves = is_checkpoint_due(config, counters)
            evaluations.add(counters, params, saves=saves, look=journal.look)
            if saves:
                journal.settle()  # Nothing that is not finite becomes a checkpoint.
                with ledger.spend("checkpoint"):
                    save(make_snapshot(state, counters, journal))
                saved = counters
        if counters != start.counters:
            journal.settle(programs.learner.fingerprint(state, batch))
    except NonFiniteError as error:
        in_batch = [text for actor in actors if (text := actor.nonfinite.of(error.update - 1))]
        raise explain_nonfinite(error, config, start.counters, counters, state, in_batch) from None
    except (TimeoutError, ActorError) as error:
        if isinstance(error.__cause__ or error, TimeoutError):  # The threads still stand where they wait.
            logging.error("A thread waited for too long.\n%s", watchdog.report(but=ledger))
        raise
    finally:
        stop_actors(actors, parameters, config.actors.timeout_s)
    if counters != saved:
        save(make_snapshot(state, counters, journal))
    evaluated = evaluations.settle(counters)
    return make_outcome(config, state, counters, journal, ledger, evaluated=evaluated, code=int(should_stop()))


def describe_learner(ledger: Ledger, actors: Sequence[Actor], counters: Counters) -> str:
    """What the main thread does now, for messages, and for whom it waits if it does."""
    bucket, seconds = ledger.doing()
    missing = [actor.name for actor in actors if not actor.is_decided()]
    waits = f", waiting for a rollout of {', '.join(missing)}" if bucket == "wait_rollouts" and missing else ""
    return f"learner has been in {bucket!r} for {seconds:.1f} s, after update {counters.learner_steps}{waits}"


def take_rollouts(
    actors: Sequence[Actor], ledger: Ledger, journal: Journal, should_stop: Callable[[], bool]
) -> list[Rollout]:
    """The next rollout of every actor; as long as an update runs meanwhile, the learner is learning and not waiting.

    Raises:
        Stopped: if the run is to end before the rollouts come.
    """
    journal.wait_for_update(unless=lambda: all(actor.is_decided() for actor in actors) or should_stop())
    if should_stop():
        raise Stopped
    with ledger.spend("wait_rollouts"):
        return [actor.take(should_stop) for actor in actors]


def check_lag(rollouts: Sequence[Rollout], versions: range) -> None:
    """Raises RuntimeError unless every rollout was made with one of the versions of parameters that it should have."""
    for index, rollout in enumerate(rollouts):
        if rollout.version not in versions:
            expected = f"{versions.start}" + (f" to {versions[-1]}" if len(versions) > 1 else "")
            raise RuntimeError(
                f"Found a rollout of actor {index} made with parameters {rollout.version}; expected {expected}."
            )


def finished_episodes(rollouts: Sequence[Rollout]) -> list[tuple[float, int]]:
    """(return, length) of the episodes that ended, in the fixed order of actors, rows and pools."""
    return [episode for rollout in rollouts for episode in rollout.episodes]
