"""The Sebulba run loop: actor threads on the actor submesh, the learner on the learner submesh, lag fixed at one.

The main thread is the learner. Update n takes rollout n of every actor, in a fixed order; rollout n was made with the
parameters of update n-2 while update n-1 ran (if synchronous, and at boundaries, with the newest: `podrl.schedule`). So
what is learned depends on the order of things only, not on the timing of threads. With `determinism='free'` the lag is
bounded instead of fixed.

Source: the Sebulba architecture of Hessel et al. 2021, arXiv:2104.06272; the fixed lag of Huang et al. 2023 (Cleanba),
arXiv:2310.00036.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import math
import time

from absl import logging
import jax

from podrl.actors import ActorError
from podrl.config import Config
from podrl.consensus import EpisodeGatherer
from podrl.crew import (
    check_lag,
    describe_learner,
    finished_episodes,
    join_actors,
    make_actors,
    stop_actors,
    take_rollouts,
)
from podrl.distributed import ALONE, Job
from podrl.envs import Source
from podrl.evaluator import OFF, Evaluator, is_evaluation_due
from podrl.journal import Journal, Row
from podrl.learner import Learner
from podrl.ledger import OTHER, Annotate, Ledger
from podrl.mesh import ShardingRule, Topology
from podrl.metrics import EpisodeWindow
from podrl.nonfinite import NonFiniteError, first_bad_leaf
from podrl.programs import Programs, compile_programs
from podrl.schedule import make_schedule
from podrl.transfer import ParameterStore
from podrl.types import Agent, Counters, EnvSpec, LearnerState, Snapshot
from podrl.waiting import Stopped
from podrl.watchdog import Watchdog, Watched

_COMPILE_S = 3600.0  # How much longer than others a process may compile; one that dies meanwhile is missed at once.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run leaves in memory.

    Attributes:
        state: the learner's last state.
        counters: progress of the whole job.
        finished: false if it was told to stop before the last update or the last evaluation had ended.
        stop_code: what `should_stop` said in the end: 0, or the exit code of the signal that stopped it.
        env_steps_per_second: average that the learner consumed, warm-up excluded; NaN after a single update.
        compile_s: seconds that compilation took; 0 if the programs were given.
        episode_return: mean over the newest episodes; None if none has finished.
        episodes: number of episodes behind it.
    """

    state: LearnerState
    counters: Counters
    finished: bool
    stop_code: int
    env_steps_per_second: float
    compile_s: float
    episode_return: float | None
    episodes: int


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
        give_up: asked in long waits for this process's own threads; by default `should_stop`.
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
    patience_s = config.actors.timeout_s

    evaluates_now = functools.partial(
        is_evaluation_due, every_updates=config.evaluate.every_updates, last_update=config.num_updates
    )

    def await_first() -> None:
        """Waits for evaluations, which the first process alone does; a reduction has a shorter limit of its own."""
        if config.evaluate.every_updates:
            job.exchange("evaluation", "", patience_s + config.evaluate.timeout_s)

    if start is not None and start.counters.learner_steps >= config.num_updates:
        if config.evaluate.every_updates:  # On all processes, though one evaluates: they hold parts of the parameters.
            params = Learner(agent, topology.learner, rules).actor_params(start.state)
            if evaluator.is_due(start.counters):
                evaluator.add(start.counters, params)
        with ledger.spend("evaluate"):
            evaluated = evaluator.settle(give_up)
            await_first()
        return _nothing_to_do(config, start, finished=evaluated, stop_code=int(should_stop()))
    start_s = time.perf_counter()
    show_phase("compiling")
    with ledger.spend("compile" if programs is None else OTHER):
        programs = programs or compile_programs(config, agent, spec, topology, rules)
        job.exchange("programs compiled", "", _COMPILE_S)  # What follows is quick, so that others need not wait long.
        start = start or first_snapshot(programs.learner, config.seed)
    state, counters, saved = start.state, start.counters, start.counters
    schedule = make_schedule(config, counters.learner_steps)
    show_phase("starting environments")
    parameters = ParameterStore(topology.local_actor_devices, keep=1 + schedule.max_lag)
    params = programs.learner.actor_params(state)
    parameters.publish(counters.learner_steps, params)
    evaluator.add(counters, params)
    actors = make_actors(config, source, topology, programs, parameters, schedule, annotate)
    doing = functools.partial(describe_learner, ledger, actors)
    watchdog.watch(Watched(ledger=ledger, doing=lambda: doing(counters), is_alive=lambda: True))
    for actor in actors:
        watchdog.watch(Watched(ledger=actor.ledger, doing=actor.doing, is_alive=actor.is_alive))
    journal = Journal(
        every_updates=config.log.every_updates,
        last_update=config.num_updates,
        episodes=EpisodeWindow(config.log.episodes, start.episodes),
        gatherer=EpisodeGatherer(job, config.log.episodes, patience_s),
        chain=start.chain,
        frames_per_step=spec.frames_per_step,
        start_s=start_s,
        timeout_s=patience_s,
        stop_on_nonfinite=config.on_nonfinite == "stop",
        learner=ledger,
        actors=[actor.ledger for actor in actors],
        write=write_row,
    )
    evaluates = True  # Until it is to stop while it waits for an evaluation.
    try:
        for actor in actors if not should_stop() else ():
            actor.start()
        while counters.learner_steps < config.num_updates and not should_stop():
            before_update(counters.learner_steps + 1)
            try:
                # Others would wait for this process in a reduction, so it may not leave on its own.
                rollouts = take_rollouts(actors, ledger, journal, give_up if job.process_count == 1 else lambda: False)
            except Stopped:
                break
            check_lag(rollouts, schedule.versions(counters.learner_steps))
            with ledger.spend("learn"):
                batch = join_actors(rollouts, topology)
                state, metrics = programs.learner.update(state, batch)
            counters = count_update(config, spec, counters)
            with ledger.spend("publish"):
                params = programs.learner.actor_params(state)
                parameters.publish(counters.learner_steps, params)
            fingerprint = programs.learner.fingerprint(state, batch) if journal.wants_row(counters) else None
            journal.add(counters, metrics, fingerprint, finished_episodes(rollouts))
            saves = is_checkpoint_due(config, counters)
            with ledger.spend("evaluate" if config.evaluate.every_updates else OTHER):
                evaluates = evaluates and evaluator.add(counters, params, saves=saves, should_stop=give_up)
                if saves or evaluates_now(counters):
                    await_first()
            if saves:
                journal.settle()  # Nothing that is not finite becomes a checkpoint.
                with ledger.spend("checkpoint"):
                    save(make_snapshot(state, counters, journal))
                saved = counters
        if counters != start.counters:
            journal.settle(programs.learner.fingerprint(state, batch))
    except NonFiniteError as error:
        raise RuntimeError(f"{error}. {_explain(config, start.counters, counters, state)}") from None
    except (TimeoutError, ActorError) as error:
        if isinstance(error.__cause__ or error, TimeoutError):  # The threads still stand where they wait.
            logging.error("Somebody waited for too long.\n%s", watchdog.report(but=ledger))
        raise
    finally:
        stop_actors(actors, parameters, config.actors.timeout_s)
    if counters != saved:
        save(make_snapshot(state, counters, journal))
    with ledger.spend("evaluate"):
        evaluated = evaluator.settle(give_up) and not evaluator.is_due(counters)
        await_first()
    return Outcome(
        state=state,
        counters=counters,
        finished=counters.learner_steps >= config.num_updates and evaluated,
        stop_code=int(should_stop()),
        env_steps_per_second=journal.rates.average,
        compile_s=ledger.seconds()["compile"],
        episode_return=journal.episode_return,
        episodes=journal.num_episodes,
    )


def _nothing_to_do(config: Config, start: Snapshot, *, finished: bool, stop_code: int) -> Outcome:
    """Of a run that had made all of its updates before."""
    logging.info("This run is finished: it has all of its %d updates.", config.num_updates)
    episodes = EpisodeWindow(config.log.episodes, start.episodes)
    return Outcome(
        state=start.state,
        counters=start.counters,
        finished=finished,
        stop_code=stop_code,
        env_steps_per_second=float("nan"),
        compile_s=0.0,
        episode_return=episodes.summary().get("episode/return"),
        episodes=len(episodes),
    )


def _explain(config: Config, start: Counters, counters: Counters, state: LearnerState) -> str:
    """What to know of a run whose numbers went wrong, one or two updates before `counters`."""
    every, update = config.checkpoint.every_updates, counters.learner_steps - 1
    saved = max(start.learner_steps, update - update % every if every else 0)
    leaf = first_bad_leaf(state.params)
    return (
        (f"The first parameter that is not finite now is {leaf}. " if leaf else "")
        + (f"The last good checkpoint is of update {saved}. " if saved else "There is no checkpoint yet. ")
        + "A smaller agent.learning_rate or agent.max_grad_norm may help; on_nonfinite='skip' drops such updates."
    )


def first_snapshot(learner: Learner, seed: int) -> Snapshot:
    """Where a new run starts."""
    state = jax.block_until_ready(learner.init(seed))
    return Snapshot(state=state, counters=Counters(), episodes={})


def make_snapshot(state: LearnerState, counters: Counters, journal: Journal) -> Snapshot:
    """Where a run stands; the journal has settled its last update."""
    return Snapshot(state=state, counters=counters, episodes=journal.record_episodes(), chain=journal.chain)


def is_checkpoint_due(config: Config, counters: Counters) -> bool:
    """Whether the update that was just counted ends with a checkpoint; the same on every process."""
    every = config.checkpoint.every_updates
    return every > 0 and counters.learner_steps > 0 and counters.learner_steps % every == 0


def count_update(config: Config, spec: EnvSpec, counters: Counters) -> Counters:
    """Counters after one more update; the same on every process."""
    env_steps = counters.env_steps + config.env_steps_per_update
    return Counters(
        learner_steps=counters.learner_steps + 1, env_steps=env_steps, frames=env_steps * spec.frames_per_step
    )
