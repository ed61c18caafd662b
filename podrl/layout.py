"""Who holds which environments: the job's environments dealt out to processes, actor threads and pools."""

import dataclasses
import os

import jax
import numpy as np

from podrl.config import Config, check
from podrl.mesh import Topology
from podrl.types import Trajectory


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


def default_env_threads(layout: Layout) -> int:
    """C++ threads of a pool: the host's cores over its actors, since a thread waits for one pool at a time."""
    return max(1, min(layout.envs_per_pool, (os.cpu_count() or 1) // layout.num_actors))


def global_shape(rollout: Trajectory, num_processes: int) -> Trajectory:
    """Shapes of the job's rollout of one pool per process, from those of one process."""

    def widen(x: jax.ShapeDtypeStruct, axis: int) -> jax.ShapeDtypeStruct:
        shape = (*x.shape[:axis], x.shape[axis] * num_processes, *x.shape[axis + 1 :])
        return jax.ShapeDtypeStruct(shape, x.dtype)

    timed = jax.tree.map(lambda x: widen(x, 1), dataclasses.replace(rollout, carry=()))
    return dataclasses.replace(timed, carry=jax.tree.map(lambda x: widen(x, 0), rollout.carry))
