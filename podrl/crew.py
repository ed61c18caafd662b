"""The actor threads of this process together, as the learner's main thread deals with them."""

from collections.abc import Callable, Sequence
import functools
import time

from absl import logging
import jax
import numpy as np

from podrl.actors import Actor
from podrl.config import Config
from podrl.envs import Pool, Source
from podrl.envs.seeds import env_seeds
from podrl.handoff import Rollout
from podrl.journal import Journal
from podrl.layout import default_env_threads, make_layout
from podrl.ledger import Annotate, Ledger
from podrl.mesh import Topology
from podrl.programs import Programs
from podrl.schedule import Schedule
from podrl.transfer import ParameterStore, global_rollout
from podrl.types import Counters, Trajectory
from podrl.waiting import Stopped


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

    def seeds(env_indices: np.ndarray, rollout: int) -> Sequence[int]:
        """Seeds of their own at every boundary; at the start those of the run's seed alone."""
        return env_seeds((config.seed, rollout) if rollout else config.seed, [int(env) for env in env_indices])

    def make_pool(env_indices: np.ndarray, rollout: int) -> Pool:
        return source.make_pool(config.env, seeds=seeds(env_indices, rollout), num_threads=num_threads)

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
            seeds=seeds,
            timeout_s=config.actors.timeout_s,
            patience_s=config.actors.timeout_s + (config.evaluate.timeout_s if config.evaluate.every_updates else 0.0),
            annotate=annotate,
        )

    return [make_actor(index, device) for index, device in enumerate(devices)]


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


def join_actors(rollouts: Sequence[Rollout], topology: Topology) -> list[Trajectory]:
    """The job's rollouts of all pools, in a fixed order."""
    local = [trajectory for rollout in rollouts for trajectory in rollout.trajectories]
    return [global_rollout(trajectory, topology.learner, topology.num_processes) for trajectory in local]


def finished_episodes(rollouts: Sequence[Rollout]) -> list[tuple[float, int]]:
    """(return, length) of the episodes that ended, in the fixed order of actors, rows and pools."""
    return [episode for rollout in rollouts for episode in rollout.episodes]


def stop_actors(actors: Sequence[Actor], parameters: ParameterStore, timeout_s: float) -> None:
    """Ends every actor thread; one that does not end in time is left to die with the process, and named."""
    parameters.stop()
    for actor in actors:
        actor.stop()
    deadline = time.monotonic() + min(timeout_s, 10.0)
    stuck = [actor.name for actor in actors if not actor.join(max(0.0, deadline - time.monotonic()))]
    if stuck:
        logging.error("%s did not end; leaving without.", ", ".join(stuck))
