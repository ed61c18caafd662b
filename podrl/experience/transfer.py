"""Transfers of rollouts from actor devices to the learner.

Rollouts move only within a process: the global array of the learner is assembled from the shards of every process,
without traffic between hosts.
"""

from collections.abc import Sequence

import jax
from jax.sharding import Mesh

from podrl.experience.handoff import Rollout
from podrl.mesh import Topology, trajectory_sharding
from podrl.types import Trajectory


def rollout_to_learner(rollout: Trajectory, local_learner: Mesh) -> Trajectory:
    """Starts moving a rollout from its actor device to this process's learner devices, split over environments."""
    return jax.device_put(rollout, trajectory_sharding(local_learner, rollout))


def global_rollout(rollout: Trajectory, learner: Mesh, num_processes: int) -> Trajectory:
    """Returns the job's rollout [T, B * num_processes] whose local shards are `rollout` [T, B]. Moves no data."""
    if num_processes == 1:
        return rollout

    def join(local: jax.Array, sharding: jax.sharding.NamedSharding) -> jax.Array:
        axis = len(sharding.spec) - 1
        shape = list(local.shape)
        shape[axis] *= num_processes
        shards = [shard.data for shard in local.addressable_shards]
        return jax.make_array_from_single_device_arrays(tuple(shape), sharding, shards)

    return jax.tree.map(join, rollout, trajectory_sharding(learner, rollout))


def join_rollouts(rollouts: Sequence[Rollout], topology: Topology) -> list[Trajectory]:
    """Returns the job's rollouts of all pools, in a fixed order. Moves no data."""
    local = [trajectory for rollout in rollouts for trajectory in rollout.trajectories]
    return [global_rollout(trajectory, topology.learner, topology.num_processes) for trajectory in local]
