"""How the job's environments are assigned to processes, actor threads and pools."""

import dataclasses

import jax
import numpy as np

from podrl.config.config import Config, check
from podrl.mesh import Topology
from podrl.runtime.machine import available_cores
from podrl.types import Trajectory

# Transitions in one micro-batch on CPU; the other encoders learn from a batch whole. See docs/performance.md.
_CPU_MICRO_BATCH = {"resnet": 96, "nature": 192}  # unrolled
_CPU_ROLLED_MICRO_BATCH = 48
_CPU_MAX_PARTS = 16  # in an unrolled update; each compiles to a copy of the network
_CPU_PARTS_OF_A_STEP = 4  # allowed in an optimizer step even beyond _CPU_MAX_PARTS, to bound its memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How the job's environments are assigned to processes, actor threads and pools.

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


def make_layout(config: Config, topology: Topology) -> Layout:
    """Assigns the environments evenly.

    Where minibatches divide the environments (`UpdateShape.grid`), every device's share of every pool must be a
    multiple of their number. Then environment e belongs to minibatch e modulo that number, or to a minibatch drawn
    within a group of neighbours that is the same on any topology, and no data moves between devices.

    Raises:
        ConfigError: If `actors.num_envs` does not divide. The message says what would.
    """
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
    _check_parts(config, num_envs // (topology.num_processes * learners * minibatches))
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
    _check_parts(config, num_envs // (learners * minibatches))
    envs_per_pool = num_envs // topology.num_processes
    return Layout(num_actors=1, pools_per_actor=1, envs_per_pool=envs_per_pool, num_processes=topology.num_processes)


def _check_parts(config: Config, envs_per_step: int) -> None:
    """Raises `ConfigError` unless rows divide into minibatches, and a device's environments into micro-batches."""
    row_parts, micro_batches = config.agent.update_shape.grid[1], max(1, config.agent.micro_batches)
    check(
        config.actors.unroll_length % row_parts == 0,
        f"actors.unroll_length={config.actors.unroll_length} does not divide into agent.minibatches={row_parts} parts, "
        "as agent.shuffle='time' cuts it. Use a multiple, or agent.shuffle=environments.",
    )
    check(
        envs_per_step % micro_batches == 0,
        f"agent.micro_batches={micro_batches} does not divide the {envs_per_step} environments that one learner device "
        f"has in a minibatch. Use a divisor of {envs_per_step}.",
    )


def runs_in_loops(config: Config, topology: Topology) -> bool:
    """Returns whether the network may run inside a loop of a compiled program.

    Inside a loop, XLA's CPU backend computes the weight gradient of a convolution some 20 times slower. In float32
    podrl computes it as a matrix product instead (`podrl.networks.convolution`), except for a ResNet whose layers are
    split over devices. Other convolutional networks are unrolled on CPU.
    """
    if any(device.platform != "cpu" for device in topology.learner.devices.flat) or config.network.encoder == "mlp":
        return True
    layers_are_split = config.network.encoder == "resnet" and config.topology.model_devices > 1
    return config.network.compute_dtype == "float32" and not layers_are_split


def resolve_micro_batches(config: Config, topology: Topology) -> Config:
    """Replaces `agent.micro_batches=0` and `agent.micro_batch_loop='auto'` in a config by what suits the learner.

    Accelerators, and networks without convolutions, learn from a batch whole. On CPU convolutional networks learn in
    micro-batches whose activations stay in cache: of at most `_CPU_ROLLED_MICRO_BATCH` transitions where the
    micro-batches are a loop of the compiled program and the network is not recurrent; otherwise of at most
    `_CPU_MICRO_BATCH`, unless that takes more than `_CPU_MAX_PARTS` of them in an update and `_CPU_PARTS_OF_A_STEP` in
    an optimizer step.

    Micro-batches are a loop where the network may be in one and a single device learns: several devices would reduce
    the gradients once per micro-batch.
    """
    agent = config.agent
    if getattr(agent, "micro_batch_loop", None) == "auto":
        rolled = runs_in_loops(config, topology) and topology.learner.devices.size == 1
        agent = dataclasses.replace(agent, micro_batch_loop="rolled" if rolled else "unrolled")
    if not agent.micro_batches:
        rolled = getattr(agent, "micro_batch_loop", None) == "rolled"
        agent = dataclasses.replace(agent, micro_batches=_choose_micro_batches(config, topology, rolled))
    return dataclasses.replace(config, agent=agent)


def _choose_micro_batches(config: Config, topology: Topology, rolled: bool) -> int:
    if not _convolves_on_cpu(config, topology):
        return 1
    env_parts, row_parts = config.agent.update_shape.grid
    envs = config.actors.num_envs // (topology.learner.shape["data"] * env_parts)
    if rolled and config.network.core == "none":  # A recurrent core is slower on fewer environments.
        size, limit = _CPU_ROLLED_MICRO_BATCH, max(1, envs)
    else:
        size = _CPU_MICRO_BATCH[config.network.encoder]
        limit = max(_CPU_PARTS_OF_A_STEP, _CPU_MAX_PARTS // _num_copies(config))
    divisors = [n for n in range(1, limit + 1) if envs % n == 0]
    small = [n for n in divisors if envs // n * (config.actors.unroll_length // row_parts) <= size]
    return min(small, default=max(divisors))


def resolve_loop(config: Config, topology: Topology) -> Config:
    """Replaces `agent.loop='auto'` in a config by what suits the learner, for agents that have that setting.

    A loop compiles faster. It is chosen wherever the network may run in one (`runs_in_loops`).
    """
    if getattr(config.agent, "loop", None) != "auto":
        return config
    loop = "rolled" if runs_in_loops(config, topology) else "unrolled"
    return dataclasses.replace(config, agent=dataclasses.replace(config.agent, loop=loop))


def _num_copies(config: Config) -> int:
    """Counts the optimizer steps of an update that compile to a copy of their own, micro-batches left aside."""
    rolled = getattr(config.agent, "loop", None) == "rolled"
    return 1 if rolled else config.agent.update_shape.optimizer_steps


def _convolves_on_cpu(config: Config, topology: Topology) -> bool:
    on_cpu = all(device.platform == "cpu" for device in topology.learner.devices.flat)
    return on_cpu and config.network.encoder in _CPU_MICRO_BATCH


def default_env_threads(layout: Layout) -> int:
    """Returns the C++ threads of a pool: the process's cores per actor, since an actor waits for one pool at a time."""
    return max(1, min(layout.envs_per_pool, available_cores() // layout.num_actors))


def global_shape(rollout: Trajectory, num_processes: int) -> Trajectory:
    """Returns the shapes of the job's rollout of one pool per process, from the shapes in one process."""

    def widen(x: jax.ShapeDtypeStruct, axis: int) -> jax.ShapeDtypeStruct:
        shape = (*x.shape[:axis], x.shape[axis] * num_processes, *x.shape[axis + 1 :])
        return jax.ShapeDtypeStruct(shape, x.dtype)

    return rollout.map(lambda x: widen(x, 1), lambda x: widen(x, 0))
