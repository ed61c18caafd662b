"""All programs of a run, compiled ahead of time: compile time is known, and no timeout has to allow for it."""

from collections.abc import Mapping, Sequence
import dataclasses

import jax
from jax.sharding import Mesh

from podrl.agents.parts.interface import Agent
from podrl.config.config import Config
from podrl.experience.layout import Layout, global_shape, make_layout
from podrl.experience.programs import ActingPrograms, compile_acting, make_unroller
from podrl.experience.remote.actor_programs import RemoteActing, compile_remote_acting
from podrl.experience.remote.serving_setup import compile_serving
from podrl.experience.remote.slots import SlotPrograms
from podrl.experience.schedule import make_schedule, serves_arrivals
from podrl.experience.unroll import Unroller
from podrl.learning.fused import FusedLearner
from podrl.learning.learner import Learner
from podrl.learning.micro_batches import partition_of
from podrl.learning.recorded import Recorded, given_shapes
from podrl.learning.replay import make_replay
from podrl.learning.seeds import SeedsLearner
from podrl.learning.update_cost import UpdateMemory, update_memory
from podrl.mesh import ShardingRule, Topology
from podrl.types import EnvSpec, Trajectory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Programs:
    """All compiled programs of a run.

    Attributes:
        learner: The learner, with its compiled programs.
        acting: The acting programs of each of this process's actor devices; those of slots where actors serve what is
            ready, and what is needed in their place if actor workers act.
        memory: The memory of the update on each learner device; None where the backend does not report it.
        update: The compiled update, whose collectives `podrl.learning.update_cost` lists.
    """

    learner: Learner
    acting: Mapping[jax.Device, ActingPrograms | SlotPrograms] | RemoteActing
    memory: UpdateMemory | None
    update: jax.stages.Compiled


@dataclasses.dataclass(frozen=True, kw_only=True)
class FusedPrograms:
    """The compiled program of a run whose environments are JAX programs, and its memory.

    Attributes:
        learner: The fused learner, which runs the program.
        memory: The memory of a call on each device; None where the backend does not report it.
        update: The compiled program, whose collectives `podrl.learning.update_cost` lists.
    """

    learner: FusedLearner | SeedsLearner
    memory: UpdateMemory | None
    update: jax.stages.Compiled


def make_learner(
    config: Config, agent: Agent, spec: EnvSpec, mesh: Mesh, rules: Sequence[ShardingRule] = ()
) -> Learner:
    """Creates the learner of a run on the learner's devices.

    Raises:
        ConfigError: If `rules` do not fit the parameters.
    """
    return Learner(
        agent,
        mesh,
        rules,
        max_lag=make_schedule(config).max_lag,
        skips_nonfinite=config.on_nonfinite == "skip",
        replay=make_replay(config, agent, spec, mesh),
        rolls_draws=partition_of(config).rolls_steps,
    )


def rollout_shapes(unroller: Unroller, layout: Layout) -> list[Trajectory]:
    """Returns the shapes of the global rollouts that one update joins."""
    rollout = global_shape(unroller.state_shape.rollout, layout.num_processes)
    return [rollout] * (layout.num_actors * layout.pools_per_actor)


def compile_programs(config: Config, agent: Agent, spec: EnvSpec, topology: Topology, learner: Learner) -> Programs:
    """Compiles acting and learning ahead of time, before any environment exists.

    Raises:
        ConfigError: If the environments do not divide over the devices.
    """
    layout = make_layout(config, topology)
    unroller = make_unroller(config, agent, spec, layout)
    update = learner.compile(rollout_shapes(unroller, layout))
    memory = update_memory(update, learner.state_shape)
    devices = topology.local_actor_devices
    acting: Mapping[jax.Device, ActingPrograms | SlotPrograms] | RemoteActing
    if config.remote.actor_workers:
        acting = compile_remote_acting(config, unroller, layout, topology.learner)
    elif serves_arrivals(config):
        acting = {device: compile_serving(config, unroller, layout, device) for device in devices}
    else:
        acting = {device: compile_acting(unroller, config.seed, device) for device in devices}
    return Programs(learner=learner, acting=acting, memory=memory, update=update)


def compile_offline(recorded: Recorded, topology: Topology, learner: Learner) -> Programs:
    """Compiles the update of a run from a data set ahead of time; nothing acts in it."""
    update = learner.compile(given_shapes(recorded, topology.learner))
    return Programs(learner=learner, acting={}, memory=update_memory(update, learner.state_shape), update=update)


def compile_fused(learner: FusedLearner | SeedsLearner) -> FusedPrograms:
    """Compiles the program ahead of time, so that compile time is known and no timeout has to allow for it."""
    compiled = learner.compile()
    memory = update_memory(compiled, learner.state_shape)
    return FusedPrograms(learner=learner, memory=memory, update=compiled)
