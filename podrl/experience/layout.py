"""Who holds which environments: the job's environments dealt out to processes, actor threads and pools."""

import dataclasses

import jax
import numpy as np

from podrl.config.config import Config, check
from podrl.mesh import Topology
from podrl.runtime.machine import available_cores
from podrl.types import Trajectory

# Transitions in a part of a batch, on CPU; other encoders take a batch whole. See docs/performance.md.
_CPU_MICRO_BATCH = {"resnet": 96, "nature": 192}  # unrolled
_CPU_ROLLED_MICRO_BATCH = 48
_CPU_MAX_PARTS = 16  # in an unrolled update; each is a copy of the network in the compiled program
_CPU_PARTS_OF_A_STEP = 4  # that an optimizer step may have however many steps an update has, for their memory


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

    Where minibatches divide the environments (`Config.minibatch_grid`), every device's share of every pool must be a
    multiple of them: then environment e lands in minibatch e modulo their number, or in one of a group of neighbours
    that are the same on any topology, and no minibatch has to move between devices.
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
    """The layout of environments inside the compiled program: as if each process had one pool."""
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
    """Whether the network may be inside a loop of a compiled program.

    XLA's CPU backend runs the weight gradient of a convolution there some 20 times slower. At float32 it is a product
    of matrices instead (`podrl.networks.convolution`), but for a ResNet whose layers are split over devices; other
    networks that convolve are unrolled.
    """
    if any(device.platform != "cpu" for device in topology.learner.devices.flat) or config.network.encoder == "mlp":
        return True
    layers_are_split = config.network.encoder == "resnet" and config.topology.model_devices > 1
    return config.network.compute_dtype == "float32" and not layers_are_split


def resolve_micro_batches(config: Config, topology: Topology) -> Config:
    """The config with `agent.micro_batches=0` and `agent.micro_batch_loop='auto'` replaced by what suits the learner.

    On a CPU convolutional networks learn in parts, whose activations stay in cache: of at most
    `_CPU_ROLLED_MICRO_BATCH` transitions where the parts are a loop of the compiled program and the network is not
    recurrent; else of `_CPU_MICRO_BATCH`, unless that would make more than `_CPU_MAX_PARTS` parts in an update and
    `_CPU_PARTS_OF_A_STEP` in a step. Accelerators, and networks without convolutions, take a batch whole.

    Parts are a loop where the network may be in one, and where one device learns: several would reduce the gradients
    of each part.
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
    """The config with `agent.loop='auto'`, of agents that have it, replaced by what suits the learner's devices.

    A loop is compiled sooner; what must not be in one is not (`runs_in_loops`).
    """
    if getattr(config.agent, "loop", None) != "auto":
        return config
    loop = "rolled" if runs_in_loops(config, topology) else "unrolled"
    return dataclasses.replace(config, agent=dataclasses.replace(config.agent, loop=loop))


def _num_copies(config: Config) -> int:
    """Optimizer steps of an update that are a copy of their own in the compiled program, but for micro-batches."""
    rolled = getattr(config.agent, "loop", None) == "rolled"
    return 1 if rolled else config.agent.update_shape.optimizer_steps


def _convolves_on_cpu(config: Config, topology: Topology) -> bool:
    on_cpu = all(device.platform == "cpu" for device in topology.learner.devices.flat)
    return on_cpu and config.network.encoder in _CPU_MICRO_BATCH


def default_env_threads(layout: Layout) -> int:
    """C++ threads of a pool: the cores that this process may use over its actors, as a thread waits for one pool."""
    return max(1, min(layout.envs_per_pool, available_cores() // layout.num_actors))


def global_shape(rollout: Trajectory, num_processes: int) -> Trajectory:
    """Shapes of the job's rollout of one pool per process, from those of one process."""

    def widen(x: jax.ShapeDtypeStruct, axis: int) -> jax.ShapeDtypeStruct:
        shape = (*x.shape[:axis], x.shape[axis] * num_processes, *x.shape[axis + 1 :])
        return jax.ShapeDtypeStruct(shape, x.dtype)

    return rollout.map(lambda x: widen(x, 1), lambda x: widen(x, 0))
