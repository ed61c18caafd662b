"""All compiled programs of a run, made ahead of time: compile time is known, and no timeout has to allow for it."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools

from absl import logging
import jax
from jax.sharding import Mesh, SingleDeviceSharding
import numpy as np

from podrl.config import Config
from podrl.layout import Layout, global_shape, make_layout
from podrl.learner import Learner
from podrl.memory import UpdateMemory, update_memory
from podrl.mesh import ShardingRule, Topology
from podrl.nonfinite import skip_nonfinite
from podrl.schedule import make_schedule
from podrl.traffic import collective_bytes
from podrl.types import Agent, EnvSpec, PyTree, Timestep, Trajectory
from podrl.unroll import ActingState, Unroller


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActingPrograms:
    """The functions of an `Unroller`, compiled for one device; the state is donated.

    Attributes:
        init: (env_indices [B] uint32, unrolls made before [] int32, both on the device) -> state.
        act: (params, version, state, timestep) -> (actions, state).
        finish: (state, timestep) -> (trajectory, state).
        timestep: shapes and dtypes of what they take.
    """

    init: Callable[[jax.Array, jax.Array], ActingState]
    act: Callable[[PyTree, jax.Array, ActingState, Timestep], tuple[jax.Array, ActingState]]
    finish: Callable[[ActingState, Timestep], tuple[Trajectory, ActingState]]
    timestep: Timestep


def compile_acting(unroller: Unroller, seed: int, device: jax.Device) -> ActingPrograms:
    """Compiles acting ahead of time, so that compile time is known and no timeout has to allow for it."""
    sharding = SingleDeviceSharding(device)
    state, timestep = _on_device(device, (unroller.state_shape, unroller.timestep_shape))
    first = jax.ShapeDtypeStruct((unroller.num_envs,), np.uint32), jax.ShapeDtypeStruct((), np.int32)
    init = jax.jit(functools.partial(unroller.init, seed), out_shardings=sharding)
    finish = jax.jit(unroller.finish, donate_argnums=0, out_shardings=sharding)
    return ActingPrograms(
        init=init.lower(*_on_device(device, first)).compile(),
        act=trace_act(unroller, device).lower().compile(),
        finish=finish.lower(state, timestep).compile(),
        timestep=unroller.timestep_shape,
    )


def trace_act(unroller: Unroller, device: jax.Device) -> jax.stages.Traced:
    """The acting step as a program that is yet to be compiled."""
    version = jax.ShapeDtypeStruct((), np.int32)
    shapes = (unroller.params_shape, version, unroller.state_shape, unroller.timestep_shape)
    act = jax.jit(unroller.act, donate_argnums=2, out_shardings=SingleDeviceSharding(device))
    return act.trace(*_on_device(device, shapes))


def _on_device(device: jax.Device, tree: PyTree) -> PyTree:
    sharding = SingleDeviceSharding(device)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Programs:
    """All compiled programs of a run.

    Attributes:
        learner: the learner's.
        acting: those of each of this process's actor devices.
        memory: what the update takes on each learner device; None where the backend does not tell.
        traffic: bytes that cross between learner devices in an update, by kind of collective.
    """

    learner: Learner
    acting: dict[jax.Device, ActingPrograms]
    memory: UpdateMemory | None
    traffic: Mapping[str, int]


def make_unroller(config: Config, agent: Agent, spec: EnvSpec, layout: Layout) -> Unroller:
    """What acts in each pool of a run."""
    return Unroller(agent=agent, spec=spec, unroll_length=config.actors.unroll_length, num_envs=layout.envs_per_pool)


def make_learner(config: Config, agent: Agent, mesh: Mesh, rules: Sequence[ShardingRule] = ()) -> Learner:
    """What learns in a run, on the learner's devices.

    Raises:
        ConfigError: if `rules` do not fit the parameters.
    """
    guarded = skip_nonfinite(agent) if config.on_nonfinite == "skip" else agent
    return Learner(guarded, mesh, rules, max_lag=make_schedule(config).max_lag)


def rollout_shapes(unroller: Unroller, layout: Layout) -> list[Trajectory]:
    """Shapes of the global rollouts that one update joins."""
    rollout = global_shape(unroller.state_shape.rollout, layout.num_processes)
    return [rollout] * (layout.num_actors * layout.pools_per_actor)


def compile_programs(
    config: Config, agent: Agent, spec: EnvSpec, topology: Topology, rules: Sequence[ShardingRule] = ()
) -> Programs:
    """Compiles acting and learning ahead of time, before any environment exists.

    Raises:
        ConfigError: if the environments or parameters do not divide over the devices.
    """
    layout = make_layout(config, topology)
    unroller = make_unroller(config, agent, spec, layout)
    learner = make_learner(config, agent, topology.learner, rules)
    update = learner.compile(rollout_shapes(unroller, layout))
    memory = update_memory(update, learner.state_shape)
    if rules and memory is not None:
        logging.info("An update on each of %d learner devices: %s.", topology.learner.size, memory.describe())
    devices = topology.local_actor_devices
    acting = {device: compile_acting(unroller, config.seed, device) for device in devices}
    return Programs(learner=learner, acting=acting, memory=memory, traffic=collective_bytes(update))
