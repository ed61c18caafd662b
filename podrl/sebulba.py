"""The Sebulba run loop: actor threads on the actor submesh, the learner on the learner submesh, lag fixed at one.

The main thread is the learner. Update n takes rollout n of every actor, in a fixed order; rollout n was made with the
parameters of update n-2 while update n-1 ran (or, if synchronous, with the newest). So what is learned depends on the
order of things only, not on the timing of threads.

Source: the Sebulba architecture of Hessel et al. 2021, arXiv:2104.06272; the fixed lag of Huang et al. 2023 (Cleanba),
arXiv:2310.00036.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import os

from absl import logging
import jax
import numpy as np

from podrl.actors import ActingPrograms, Actor, Rollout, compile_acting
from podrl.config import Config, check
from podrl.envs import Source
from podrl.envs.seeds import env_seeds
from podrl.journal import Journal, Row
from podrl.learner import Learner
from podrl.ledger import Ledger
from podrl.mesh import ShardingRule, Topology
from podrl.transfer import ParameterStore, global_rollout
from podrl.types import Agent, Counters, EnvSpec, LearnerState, PyTree, Trajectory
from podrl.unroll import Unroller


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How the job's environments are dealt out to processes, actor threads and pools.

    Attributes:
        num_actors: actor threads of each process.
        pools_per_actor: pools that each of them takes turns with.
        envs_per_pool: environments in a pool.
        num_processes: processes in the job.
    """

    num_actors: int
    pools_per_actor: int
    envs_per_pool: int
    num_processes: int

    def env_indices(self, process: int, actor: int, pool: int) -> np.ndarray:
        """[envs_per_pool] uint32: which of the whole job's environments a pool holds; no two pools share one."""
        position = (process * self.num_actors + actor) * self.pools_per_actor + pool
        return np.arange(self.envs_per_pool, dtype=np.uint32) + np.uint32(position * self.envs_per_pool)


def make_layout(config: Config, topology: Topology) -> Layout:
    """Deals the environments out evenly.

    Raises:
        ConfigError: if `actors.num_envs` does not divide; names the numbers and what would fit.
    """
    num_actors = len(topology.local_actor_devices) * config.actors.threads_per_device
    pools = topology.num_processes * num_actors * config.actors.pools_per_thread
    learners = topology.local_learner.shape["data"]
    num_envs = config.actors.num_envs
    check(
        num_envs % (pools * learners) == 0,
        f"actors.num_envs={num_envs} does not divide over {pools} pools ({topology.num_processes} process(es) x "
        f"{num_actors} actor threads x {config.actors.pools_per_thread} pools) and {learners} learner devices each. "
        f"Use a multiple of {pools * learners}, or change actors.pools_per_thread or topology.*.",
    )
    envs_per_pool = num_envs // pools
    return Layout(
        num_actors=num_actors,
        pools_per_actor=config.actors.pools_per_thread,
        envs_per_pool=envs_per_pool,
        num_processes=topology.num_processes,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run leaves in memory.

    Attributes:
        state: the learner's last state.
        counters: progress of the whole job.
        finished: false if it was told to stop early.
        env_steps_per_second: average that the learner consumed, warm-up excluded; NaN after a single update.
        compile_s: seconds that compilation took.
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
    learner = Learner(agent, topology.learner, rules)
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
    show_phase: Callable[[str], None] = lambda text: None,
    write_row: Callable[[Row], None] = lambda row: None,
    save: Callable[[LearnerState, Counters], None] = lambda state, counters: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Trains until `total_env_steps` are consumed, or until told to stop.

    Args:
        config: of the whole run.
        agent: the algorithm.
        spec: the environment, as `source` describes it.
        source: makes environments.
        topology: who acts and who learns.
        rules: layout of wide parameters on the learner mesh.
        show_phase: told what happens before training.
        write_row: takes each row of metrics.
        save: writes a checkpoint; called every `checkpoint.every_updates` and at the end.
        should_stop: asked between updates.

    Raises:
        ConfigError: if the environments do not divide over actors and devices.
        ActorError: if an actor thread failed.
        TimeoutError: if a thread waited for another for longer than `actors.timeout_s`.
    """
    ledger = Ledger("learner")
    show_phase("compiling")
    with ledger.spend("compile"):
        programs = compile_programs(config, agent, spec, topology, rules)
        learner = programs.learner
        state = learner.init(config.seed)
    show_phase("starting environments")
    parameters = ParameterStore(topology.local_actor_devices)
    parameters.publish(0, learner.actor_params(state))
    actors = make_actors(config, source, topology, programs, parameters)
    journal = Journal(
        every_updates=config.log.every_updates,
        episodes=config.log.episodes,
        frames_per_step=spec.frames_per_step,
        learner=ledger,
        actors=[actor.ledger for actor in actors],
        write=write_row,
    )
    counters = Counters()
    try:
        for actor in actors:
            actor.start()
        while counters.learner_steps < config.num_updates and not should_stop():
            with ledger.spend("wait_rollouts"):
                rollouts = [actor.take() for actor in actors]
            check_lag(rollouts, counters.learner_steps, max_lag(config))
            with ledger.spend("learn"):
                state, metrics = learner.update(state, join_actors(rollouts, topology))
            counters = count_update(config, spec, counters)
            with ledger.spend("publish"):
                parameters.publish(counters.learner_steps, learner.actor_params(state))
            wants_row = journal.wants_row(counters.learner_steps) or counters.learner_steps == config.num_updates
            fingerprint = learner.fingerprint(state) if wants_row else None
            episodes = [episode for rollout in rollouts for episode in rollout.episodes]
            journal.add(counters, metrics, fingerprint, episodes)
            every = config.checkpoint.every_updates
            if every and counters.learner_steps % every == 0:
                with ledger.spend("checkpoint"):
                    save(state, counters)
        journal.settle()
    finally:
        stop_actors(actors, parameters, config.actors.timeout_s)
    every = config.checkpoint.every_updates
    if counters.learner_steps and not (every and counters.learner_steps % every == 0):
        save(state, counters)
    episode_return, num_episodes = journal.episodes
    return Outcome(
        state=state,
        counters=counters,
        finished=counters.learner_steps >= config.num_updates,
        env_steps_per_second=journal.rates.average,
        compile_s=ledger.seconds()["compile"],
        episode_return=episode_return,
        episodes=num_episodes,
    )


def make_actors(
    config: Config, source: Source, topology: Topology, programs: Programs, parameters: ParameterStore
) -> list[Actor]:
    """This process's actors, not yet started, in the fixed order in which the learner takes their rollouts."""
    layout = make_layout(config, topology)
    devices = [d for d in topology.local_actor_devices for _ in range(config.actors.threads_per_device)]
    return [
        _make_actor(config, source, topology, programs, parameters, layout, index, device)
        for index, device in enumerate(devices)
    ]


def _make_actor(
    config: Config,
    source: Source,
    topology: Topology,
    programs: Programs,
    parameters: ParameterStore,
    layout: Layout,
    index: int,
    device: jax.Device,
) -> Actor:
    pools = [layout.env_indices(topology.process_index, index, pool) for pool in range(layout.pools_per_actor)]
    num_threads = config.actors.env_threads or default_env_threads(layout)
    return Actor(
        name=f"actor {index}",
        device=device,
        programs=programs.acting[device],
        make_pools=[
            functools.partial(
                source.make_pool,
                config.env,
                seeds=env_seeds(config.seed, [int(env) for env in indices]),
                num_threads=num_threads,
            )
            for indices in pools
        ],
        env_indices=pools,
        unroll_length=config.actors.unroll_length,
        num_rollouts=config.num_updates,
        max_lag=max_lag(config),
        parameters=parameters,
        local_learner=topology.local_learner,
        timeout_s=config.actors.timeout_s,
    )


def default_env_threads(layout: Layout) -> int:
    """C++ threads of a pool: the host's cores over its actors, since a thread waits for one pool at a time."""
    return max(1, min(layout.envs_per_pool, (os.cpu_count() or 1) // layout.num_actors))


def max_lag(config: Config) -> int:
    """Updates between the parameters that act and those that learn: 1, or 0 if synchronous."""
    return 0 if config.actors.synchronous else 1


def check_lag(rollouts: Sequence[Rollout], learner_steps: int, lag: int) -> None:
    """Raises RuntimeError unless every rollout was made with the one version of parameters that it should have."""
    expected = max(learner_steps - lag, 0)
    for index, rollout in enumerate(rollouts):
        if rollout.version != expected:
            raise RuntimeError(
                f"Update {learner_steps} got a rollout of actor {index} made with parameters {rollout.version}; "
                f"expected {expected}."
            )


def join_actors(rollouts: Sequence[Rollout], topology: Topology) -> list[Trajectory]:
    """The job's rollouts of all pools, in a fixed order."""
    local = [trajectory for rollout in rollouts for trajectory in rollout.trajectories]
    return [global_rollout(trajectory, topology.learner, topology.num_processes) for trajectory in local]


def global_shape(rollout: Trajectory, num_processes: int) -> Trajectory:
    """Shapes of the job's rollout of one pool per process, from those of one process."""

    def widen(x: jax.ShapeDtypeStruct, axis: int) -> jax.ShapeDtypeStruct:
        shape = (*x.shape[:axis], x.shape[axis] * num_processes, *x.shape[axis + 1 :])
        return jax.ShapeDtypeStruct(shape, x.dtype)

    timed: PyTree = jax.tree.map(lambda x: widen(x, 1), rollout.replace(carry=()))
    return timed.replace(carry=jax.tree.map(lambda x: widen(x, 0), rollout.carry))


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
    stuck = [actor.name for actor in actors if not actor.join(min(timeout_s, 10.0))]
    if stuck:
        logging.error("%s did not end; leaving without.", ", ".join(stuck))
