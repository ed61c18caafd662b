"""How the job's environments are assigned to processes, actor threads and pools."""

import dataclasses

import jax
import numpy as np

from podrl.config.config import Config, check
from podrl.mesh import Topology
from podrl.runtime.machine import available_cores
from podrl.types import Trajectory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How the job's environments are assigned to processes, actor threads and pools.

    Offline its samples are: as if each process had one pool, whose environments are its samples of a batch.

    Attributes:
        num_actors: Actor threads of each process.
        pools_per_actor: Pools that each thread alternates between.
        envs_per_pool: Environments in a pool.
        num_processes: Processes in the job.
    """

    num_actors: int
    pools_per_actor: int
    envs_per_pool: int
    num_processes: int

    def env_indices(self, process: int, actor: int, pool: int) -> np.ndarray:
        """Returns the indices in the job, [envs_per_pool] uint32, of a pool's environments; no two pools share one."""
        position = (process * self.num_actors + actor) * self.pools_per_actor + pool
        return np.arange(self.envs_per_pool, dtype=np.uint32) + np.uint32(position * self.envs_per_pool)

    def pools_of(self, process: int, actor: int) -> list[np.ndarray]:
        """Returns `env_indices` of each of an actor's pools."""
        return [self.env_indices(process, actor, pool) for pool in range(self.pools_per_actor)]

    def joined_indices(self, num_shares: int) -> np.ndarray:
        """Returns the indices in the job, [B] uint32, along the environments of a batch that the learner has joined.

        Every device joins its shares of all rollouts (`podrl.learning.intake.join_environments`), each of which has
        one pool of every process.

        Args:
            num_shares: Size of the learner's mesh axis `data`.
        """
        processes, actors, pools = range(self.num_processes), range(self.num_actors), range(self.pools_per_actor)
        rollouts = [
            np.concatenate([self.env_indices(process, actor, pool) for process in processes])
            for actor in actors
            for pool in pools
        ]
        return np.stack(rollouts).reshape(len(rollouts), num_shares, -1).swapaxes(0, 1).reshape(-1)


def make_layout(config: Config, topology: Topology) -> Layout:
    """Assigns the environments evenly.

    Where minibatches divide the environments (`UpdateShape.grid`), every device's share of every pool must be a
    multiple of their number. Then environment e belongs to minibatch e modulo that number, or to a minibatch drawn
    within a group of neighbours that is the same on any topology, and no data moves between devices.

    Raises:
        ConfigError: If `actors.num_envs` does not divide. The message says what would.
    """
    if config.is_offline:
        return _make_for_samples(config, topology)
    if config.topology.placement == "anakin":
        return _make_undivided(config, topology)
    num_actors = len(topology.local_actor_devices) * config.actors.threads_per_device
    pools = topology.num_processes * num_actors * config.actors.pools_per_thread
    learners = topology.local_learner.shape["data"]
    num_envs = config.actors.num_envs
    minibatches, _ = config.agent.update_shape.grid
    divisor = pools * learners * minibatches
    check(
        num_envs % divisor == 0,
        f"actors.num_envs={num_envs} does not divide over {pools} pools ({topology.num_processes} process(es) x "
        f"{num_actors} actor threads x {config.actors.pools_per_thread} pools), {learners} learner devices each, and "
        f"agent.minibatches={minibatches}. Use a multiple of {divisor}, or change actors.pools_per_thread, topology.* "
        "or agent.minibatches.",
    )
    _check_parts(config, topology.num_processes * learners * minibatches)
    envs_per_pool = num_envs // pools
    return Layout(
        num_actors=num_actors,
        pools_per_actor=config.actors.pools_per_thread,
        envs_per_pool=envs_per_pool,
        num_processes=topology.num_processes,
    )


def _make_undivided(config: Config, topology: Topology) -> Layout:
    """Returns the layout of environments inside the compiled program: as if each process had one pool."""
    learners, (minibatches, _) = topology.learner.shape["data"], config.agent.update_shape.grid
    num_envs = config.actors.num_envs
    check(
        num_envs % (learners * minibatches) == 0,
        f"actors.num_envs={num_envs} does not divide over {learners} devices and agent.minibatches={minibatches}. Use "
        f"a multiple of {learners * minibatches}, or change agent.minibatches.",
    )
    _check_parts(config, learners * minibatches)
    envs_per_pool = num_envs // topology.num_processes
    return Layout(num_actors=1, pools_per_actor=1, envs_per_pool=envs_per_pool, num_processes=topology.num_processes)


def _make_for_samples(config: Config, topology: Topology) -> Layout:
    """Returns the layout of the samples of a data set: as if each process had one pool."""
    shares, (minibatches, _) = topology.learner.shape["data"], config.agent.update_shape.grid
    batch, processes = config.data.batch, topology.num_processes
    check(
        batch % (shares * minibatches) == 0,
        f"data.batch={batch} does not divide over {shares} learner devices ('data' axis, {processes} process(es) x "
        f"{shares // processes}) and agent.minibatches={minibatches}. Use a multiple of {shares * minibatches}, or "
        "change topology.learner_devices_per_process.",
    )
    _check_parts(config, shares * minibatches)
    return Layout(num_actors=1, pools_per_actor=1, envs_per_pool=batch // processes, num_processes=processes)


def _check_parts(config: Config, shares: int) -> None:
    """Raises `ConfigError` unless rows divide into minibatches, and a device's environments into micro-batches.

    Args:
        config: The run's config.
        shares: How many parts of a batch there are: minibatches on each learner device of the job.
    """
    row_parts, micro_batches = config.agent.update_shape.grid[1], max(1, config.topology.micro_batches)
    envs_per_step = config.learned_shape[1] // shares
    is_sequences = config.agent.update_shape.sequences is not None
    kind = "samples" if config.is_offline else "sequences" if is_sequences else "environments"
    check(
        config.is_offline or config.actors.unroll_length % row_parts == 0,
        f"actors.unroll_length={config.actors.unroll_length} does not divide into agent.minibatches={row_parts} parts, "
        "as agent.shuffle='time' cuts it. Use a multiple, or agent.shuffle=environments.",
    )
    check(
        envs_per_step % micro_batches == 0,
        f"topology.micro_batches={micro_batches} does not divide the {envs_per_step} {kind} that one learner "
        f"device has in a minibatch. Use a divisor of {envs_per_step}.",
    )


def default_env_threads(layout: Layout) -> int:
    """Returns the C++ threads of a pool: the process's cores per actor, since an actor waits for one pool at a time."""
    return max(1, min(layout.envs_per_pool, available_cores() // layout.num_actors))


def global_shape(rollout: Trajectory, num_processes: int) -> Trajectory:
    """Returns the shapes of the job's rollout of one pool per process, from the shapes in one process."""

    def widen(x: jax.ShapeDtypeStruct, axis: int) -> jax.ShapeDtypeStruct:
        shape = (*x.shape[:axis], x.shape[axis] * num_processes, *x.shape[axis + 1 :])
        return jax.ShapeDtypeStruct(shape, x.dtype)

    return rollout.map(lambda x: widen(x, 1), lambda x: widen(x, 0))
