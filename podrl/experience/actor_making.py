"""One actor of a run: its environments, their seeds, and where it acts."""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from podrl.config.config import Config
from podrl.envs.opening import make_pool
from podrl.envs.seeds import env_seeds
from podrl.envs.source import Pool, Source
from podrl.experience.actors import Actor
from podrl.experience.layout import Layout
from podrl.experience.parameters import Parameters
from podrl.experience.schedule import Schedule
from podrl.runtime.ledger import Annotate


def make_actor(
    config: Config,
    source: Source,
    layout: Layout,
    index: int,
    *,
    process_index: int,
    device: jax.Device,
    programs: Any,
    schedule: Schedule,
    parameters: Parameters,
    local_learner: Mesh,
    num_threads: int,
    timeout_s: float,
    annotate: Annotate | None = None,
    make: Callable[..., Actor] = Actor,
) -> Actor:
    """Creates one actor of a process, not yet started.

    Args:
        config: The run's config.
        source: Creates the environments.
        layout: How environments are assigned to actors.
        index: The actor's index in its process, which decides its environments.
        process_index: The index of the process that learns from it.
        device: The device to act on.
        programs: The acting programs, compiled for `device`: `ActingPrograms`, or those that `make` wants.
        schedule: Which parameters generate which rollout.
        parameters: Where it gets them.
        local_learner: The mesh of devices that rollouts are sent to.
        num_threads: Threads of each pool.
        timeout_s: How long `Actor.take` waits.
        annotate: Marks for a profiler what the thread spends its time on.
        make: Makes it of what every `Actor` is made of.
    """

    def seeds(env_indices: np.ndarray, rollout: int) -> Sequence[int]:
        """Returns the environments' seeds: at rollout 0 from the run's seed alone, at later boundaries from both."""
        return env_seeds((config.seed, rollout) if rollout else config.seed, [int(env) for env in env_indices])

    def open_pool(env_indices: np.ndarray, rollout: int) -> Pool:
        own = seeds(env_indices, rollout)
        return make_pool(source, config.env, seeds=own, env_numbers=env_indices.tolist(), num_threads=num_threads)

    pools = layout.pools_of(process_index, index)
    return make(
        name=f"actor {index}",
        device=device,
        programs=programs,
        make_pools=[functools.partial(open_pool, env_indices) for env_indices in pools],
        env_indices=pools,
        unroll_length=config.actors.unroll_length,
        schedule=schedule,
        parameters=parameters,
        local_learner=local_learner,
        seeds=seeds,
        timeout_s=timeout_s,
        patience_s=config.patience_s,
        info_keys=config.log.info_keys,
        annotate=annotate,
    )
