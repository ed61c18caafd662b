"""The actor threads of this process together, as the learner's main thread deals with them."""

from collections.abc import Mapping, Sequence
import functools
import time

from absl import logging
import jax
import numpy as np

from podrl.config.config import Config
from podrl.envs.seeds import env_seeds
from podrl.envs.source import Pool, Source
from podrl.experience.actors import Actor
from podrl.experience.handoff import Rollout
from podrl.experience.layout import default_env_threads, make_layout
from podrl.experience.programs import ActingPrograms
from podrl.experience.schedule import Schedule
from podrl.experience.transfer import ParameterStore, global_rollout
from podrl.mesh import Topology
from podrl.runtime.ledger import Annotate
from podrl.types import Trajectory


def make_actors(
    config: Config,
    source: Source,
    topology: Topology,
    acting: Mapping[jax.Device, ActingPrograms],
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
            programs=acting[device],
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


def stop_actors(actors: Sequence[Actor], parameters: ParameterStore, timeout_s: float) -> None:
    """Ends every actor thread; one that does not end in time is left to die with the process, and named."""
    parameters.stop()
    for actor in actors:
        actor.stop()
    deadline = time.monotonic() + min(timeout_s, 10.0)
    stuck = [actor.name for actor in actors if not actor.join(max(0.0, deadline - time.monotonic()))]
    if stuck:
        logging.error("%s did not end; leaving without.", ", ".join(stuck))


def join_actors(rollouts: Sequence[Rollout], topology: Topology) -> list[Trajectory]:
    """The job's rollouts of all pools, in a fixed order."""
    local = [trajectory for rollout in rollouts for trajectory in rollout.trajectories]
    return [global_rollout(trajectory, topology.learner, topology.num_processes) for trajectory in local]
