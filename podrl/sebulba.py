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
import numpy as np

from podrl.actors import ActingPrograms, Actor, ActorError, compile_acting
from podrl.config import Config
from podrl.envs import Pool, Source
from podrl.envs.seeds import env_seeds
from podrl.evaluator import OFF, Evaluator
from podrl.handoff import Rollout
from podrl.journal import Journal, Row
from podrl.layout import default_env_threads, global_shape, make_layout
from podrl.learner import Learner
from podrl.ledger import OTHER, Annotate, Ledger
from podrl.mesh import ShardingRule, Topology
from podrl.metrics import EpisodeWindow
from podrl.nonfinite import NonFiniteError, first_bad_leaf, skip_nonfinite
from podrl.schedule import Schedule, make_schedule
from podrl.transfer import ParameterStore, global_rollout
from podrl.types import Agent, Counters, EnvSpec, LearnerState, Snapshot, Trajectory
from podrl.unroll import Unroller
from podrl.waiting import Stopped
from podrl.watchdog import Watchdog, Watched


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run leaves in memory.

    Attributes:
        state: the learner's last state.
        counters: progress of the whole job.
        finished: false if it was told to stop before the last update or the last evaluation had ended.
        env_steps_per_second: average that the learner consumed, warm-up excluded; NaN after a single update.
        compile_s: seconds that compilation took; 0 if the programs were given.
        episode_return: mean over the newest episodes; None if none has finished.
        episodes: number of episodes behind it.
    """

    state: LearnerState
    counters: Counters
    finished: bool
    env_steps_per_second: float
    compile_s: float
    episode_return: float | None
    episodes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Programs:
    """All compiled programs of a run.

    Attributes:
        learner: the learner's.
        acting: those of each of this process's actor devices.
    """

    learner: Learner
    acting: dict[jax.Device, ActingPrograms]


def compile_programs(
    config: Config, agent: Agent, spec: EnvSpec, topology: Topology, rules: Sequence[ShardingRule] = ()
) -> Programs:
    """Compiles acting and learning ahead of time, before any environment exists.

    Raises:
        ConfigError: if the environments or parameters do not divide over the devices.
    """
    layout = make_layout(config, topology)
    unroller = Unroller(
        agent=agent, spec=spec, unroll_length=config.actors.unroll_length, num_envs=layout.envs_per_pool
    )
    learner = Learner(
        skip_nonfinite(agent) if config.on_nonfinite == "skip" else agent,
        topology.learner,
        rules,
        max_lag=make_schedule(config).max_lag,
    )
    rollouts = [global_shape(unroller.state_shape().rollout, topology.num_processes)]
    learner.compile(rollouts * (layout.num_actors * layout.pools_per_actor))
    devices = topology.local_actor_devices
    return Programs(learner=learner, acting={d: compile_acting(unroller, config.seed, d) for d in devices})


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
    should_stop: Callable[[], bool] = lambda: False,
    before_update: Callable[[int], None] = lambda update: None,
    evaluator: Evaluator = OFF,
    annotate: Annotate | None = None,
    ledger: Ledger | None = None,
    watchdog: Watchdog | None = None,
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
        should_stop: asked before the actors start, before every update, and in long waits.
        before_update: told the number of the update, from 1, before its rollouts are taken.
        evaluator: plays with some updates' parameters; the caller closes it.
        annotate: shows a profiler what each thread spends its time on.
        ledger: of the main thread; by default one that starts here.
        watchdog: watches every thread; by default nobody does.

    Raises:
        ConfigError: if the environments do not divide over actors and devices.
        ActorError: if an actor thread failed.
        EvaluationError: if the evaluator's did.
        TimeoutError: if a thread waited for another for longer than `actors.timeout_s`.
        RuntimeError: if a loss or gradient is not finite and `on_nonfinite='stop'`.
    """
    if start is not None and start.counters.learner_steps >= config.num_updates:
        if evaluator.is_due(start.counters):
            evaluator.add(start.counters, Learner(agent, topology.learner, rules).actor_params(start.state))
        return _nothing_to_do(config, start, finished=evaluator.settle(should_stop))
    start_s = time.perf_counter()
    ledger = ledger or Ledger("learner", annotate=annotate)
    watchdog = watchdog or Watchdog(math.inf)
    show_phase("compiling")
    with ledger.spend("compile" if programs is None else OTHER):
        programs = programs or compile_programs(config, agent, spec, topology, rules)
        start = start or first_snapshot(programs.learner, config.seed)
    state, counters = start.state, start.counters
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
        chain=start.chain,
        frames_per_step=spec.frames_per_step,
        start_s=start_s,
        timeout_s=config.actors.timeout_s,
        stop_on_nonfinite=config.on_nonfinite == "stop",
        learner=ledger,
        actors=[actor.ledger for actor in actors],
        write=write_row,
    )
    try:
        for actor in actors if not should_stop() else ():
            actor.start()
        while counters.learner_steps < config.num_updates and not should_stop():
            before_update(counters.learner_steps + 1)
            try:
                rollouts = take_rollouts(actors, ledger, journal, should_stop)
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
            with ledger.spend(OTHER if evaluator is OFF else "evaluate"):
                saves = is_checkpoint_due(config, counters)
                if not evaluator.add(counters, params, saves=saves, should_stop=should_stop):
                    break
            if saves:
                journal.settle()  # Nothing that is not finite becomes a checkpoint.
                with ledger.spend("checkpoint"):
                    save(make_snapshot(state, counters, journal))
        if counters != start.counters:
            journal.settle(programs.learner.fingerprint(state, batch))
    except NonFiniteError as error:
        raise RuntimeError(f"{error}. {_explain(schedule, counters, state)}") from None
    except (TimeoutError, ActorError) as error:
        if isinstance(error.__cause__ or error, TimeoutError):  # The threads still stand where they wait.
            logging.error("Somebody waited for too long.\n%s", watchdog.report(but=ledger))
        raise
    finally:
        stop_actors(actors, parameters, config.actors.timeout_s)
    last = counters.learner_steps >= config.num_updates
    # A run that was told to stop while the last update's evaluation waited for an earlier one makes both anew.
    complete = not (last and evaluator.is_due(counters))
    if counters != start.counters and complete and not is_checkpoint_due(config, counters):
        save(make_snapshot(state, counters, journal))
    return Outcome(
        state=state,
        counters=counters,
        finished=last and complete and evaluator.settle(should_stop),
        env_steps_per_second=journal.rates.average,
        compile_s=ledger.seconds()["compile"],
        episode_return=journal.episode_return,
        episodes=journal.num_episodes,
    )


def _nothing_to_do(config: Config, start: Snapshot, *, finished: bool) -> Outcome:
    """Of a run that had made all of its updates before."""
    logging.info("This run is finished: it has all of its %d updates.", config.num_updates)
    episodes = EpisodeWindow(config.log.episodes, start.episodes)
    return Outcome(
        state=start.state,
        counters=start.counters,
        finished=finished,
        env_steps_per_second=float("nan"),
        compile_s=0.0,
        episode_return=episodes.summary().get("episode/return"),
        episodes=len(episodes),
    )


def _explain(schedule: Schedule, counters: Counters, state: LearnerState) -> str:
    """What to know of a run whose numbers went wrong, one or two updates before `counters`."""
    saved = schedule.boundary(counters.learner_steps - 1)
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


def make_actors(
    config: Config,
    source: Source,
    topology: Topology,
    programs: Programs,
    parameters: ParameterStore,
    schedule: Schedule,
    annotate: Annotate | None = None,
) -> list[Actor]:
    """This process's actors, not yet started, in the fixed order in which the learner takes their rollouts."""
    layout = make_layout(config, topology)
    num_threads = config.actors.env_threads or default_env_threads(layout)
    devices = [d for d in topology.local_actor_devices for _ in range(config.actors.threads_per_device)]

    def make_pool(env_indices: np.ndarray, rollout: int) -> Pool:
        """A pool with seeds of its own at every boundary; at the start those of the run's seed alone."""
        seeds = env_seeds((config.seed, rollout) if rollout else config.seed, [int(env) for env in env_indices])
        return source.make_pool(config.env, seeds=seeds, num_threads=num_threads)

    def make_actor(index: int, device: jax.Device) -> Actor:
        pools = [layout.env_indices(topology.process_index, index, pool) for pool in range(layout.pools_per_actor)]
        return Actor(
            name=f"actor {index}",
            device=device,
            programs=programs.acting[device],
            make_pools=[functools.partial(make_pool, env_indices) for env_indices in pools],
            env_indices=pools,
            unroll_length=config.actors.unroll_length,
            schedule=schedule,
            parameters=parameters,
            local_learner=topology.local_learner,
            timeout_s=config.actors.timeout_s,
            patience_s=config.actors.timeout_s + (config.evaluate.timeout_s if config.evaluate.every_updates else 0.0),
            annotate=annotate,
        )

    return [make_actor(index, device) for index, device in enumerate(devices)]


def check_lag(rollouts: Sequence[Rollout], versions: range) -> None:
    """Raises RuntimeError unless every rollout was made with one of the versions of parameters that it should have."""
    for index, rollout in enumerate(rollouts):
        if rollout.version not in versions:
            expected = f"{versions.start}" + (f" to {versions[-1]}" if len(versions) > 1 else "")
            raise RuntimeError(
                f"Found a rollout of actor {index} made with parameters {rollout.version}; expected {expected}."
            )


def join_actors(rollouts: Sequence[Rollout], topology: Topology) -> list[Trajectory]:
    """The job's rollouts of all pools, in a fixed order."""
    local = [trajectory for rollout in rollouts for trajectory in rollout.trajectories]
    return [global_rollout(trajectory, topology.learner, topology.num_processes) for trajectory in local]


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
        Stopped: if the run is to end while a rollout does not come.
    """
    journal.wait_for_update(unless=lambda: all(actor.is_decided() for actor in actors))
    with ledger.spend("wait_rollouts"):
        return [actor.take(should_stop) for actor in actors]


def finished_episodes(rollouts: Sequence[Rollout]) -> list[tuple[float, int]]:
    """(return, length) of the episodes that ended, in the fixed order of actors, rows and pools."""
    return [episode for rollout in rollouts for episode in rollout.episodes]


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


def stop_actors(actors: Sequence[Actor], parameters: ParameterStore, timeout_s: float) -> None:
    """Ends every actor thread; one that does not end in time is left to die with the process, and named."""
    parameters.stop()
    for actor in actors:
        actor.stop()
    deadline = time.monotonic() + min(timeout_s, 10.0)
    stuck = [actor.name for actor in actors if not actor.join(max(0.0, deadline - time.monotonic()))]
    if stuck:
        logging.error("%s did not end; leaving without.", ", ".join(stuck))
