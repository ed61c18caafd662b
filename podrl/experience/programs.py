"""The programs of an actor device, compiled ahead of time: the start, a step and the end of an unroll."""

from collections.abc import Callable
import dataclasses
import functools

import jax
from jax.sharding import SingleDeviceSharding
import numpy as np

from podrl.agents.parts.interface import Agent
from podrl.config.config import Config
from podrl.experience.layout import Layout
from podrl.experience.unroll import ActingState, Unroller
from podrl.types import EnvSpec, PyTree, Timestep, Trajectory


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActingPrograms:
    """The functions of an `Unroller`, compiled for one device; the state is donated.

    Attributes:
        init: (env_indices [B] uint32, unrolls made before [] int32, both on the device) -> state.
        act: (params, version, state, timestep) -> (actions, state).
        finish: (state, timestep) -> (trajectory, state).
        timestep: Shapes and dtypes of the timesteps that they take.
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
    """Traces the acting step, for compilation or inspection."""
    version = jax.ShapeDtypeStruct((), np.int32)
    shapes = (unroller.params_shape, version, unroller.state_shape, unroller.timestep_shape)
    act = jax.jit(unroller.act, donate_argnums=2, out_shardings=SingleDeviceSharding(device))
    return act.trace(*_on_device(device, shapes))


def _on_device(device: jax.Device, tree: PyTree) -> PyTree:
    sharding = SingleDeviceSharding(device)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def make_unroller(config: Config, agent: Agent, spec: EnvSpec, layout: Layout) -> Unroller:
    """Creates the unroller of each pool of a run."""
    return Unroller(agent=agent, spec=spec, unroll_length=config.actors.unroll_length, num_envs=layout.envs_per_pool)
