"""All compiled programs of a run, made ahead of time: compile time is known, and no timeout has to allow for it."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools

from absl import logging
import jax
import numpy as np

from podrl.config import Config
from podrl.layout import global_shape, make_layout
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
        init: (env_indices [B] uint32, steps taken before [] int32, both on the device) -> state.
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
    sharding = jax.sharding.SingleDeviceSharding(device)

    def on_device(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    state = on_device(unroller.state_shape())
    timestep = on_device(unroller.timestep_shape())
    params = on_device(unroller.params_shape())
    version = on_device(jax.ShapeDtypeStruct((), np.int32))
    step = on_device(jax.ShapeDtypeStruct((), np.int32))
    env_indices = on_device(jax.ShapeDtypeStruct((unroller.num_envs,), np.uint32))
    init = jax.jit(functools.partial(unroller.init, seed), out_shardings=sharding)
    act = jax.jit(unroller.act, donate_argnums=2, out_shardings=sharding)
    finish = jax.jit(unroller.finish, donate_argnums=0, out_shardings=sharding)
    return ActingPrograms(
        init=init.lower(env_indices, step).compile(),
        act=act.lower(params, version, state, timestep).compile(),
        finish=finish.lower(state, timestep).compile(),
        timestep=unroller.timestep_shape(),
    )


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
    learner = Learner(
        skip_nonfinite(agent) if config.on_nonfinite == "skip" else agent,
        topology.learner,
        rules,
        max_lag=make_schedule(config).max_lag,
    )
    rollouts = [global_shape(unroller.state_shape().rollout, topology.num_processes)]
    update = learner.compile(rollouts * (layout.num_actors * layout.pools_per_actor))
    memory = update_memory(update, learner.state_shape)
    if rules and memory is not None:
        logging.info("An update on each of %d learner devices: %s.", topology.learner.size, memory.describe())
    devices = topology.local_actor_devices
    acting = {device: compile_acting(unroller, config.seed, device) for device in devices}
    return Programs(learner=learner, acting=acting, memory=memory, traffic=collective_bytes(update))
