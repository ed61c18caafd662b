"""podrl's own programs, compiled or counted for a slice, and what each of them costs.

For a TPU slice the acting step and the update of `podrl.learning.programs`, or with `topology.placement='anakin'` the
program of `podrl.learning.fused`, are compiled as a run would compile them, for devices that need not be there. For
GPUs there is no compiler at hand: there the same programs are traced and their arithmetic counted.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import time
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from podrl.assembly import Assembly, assemble, make_split_agent
from podrl.config.config import Config, check
from podrl.envs.source import make_environment
from podrl.experience.layout import Layout
from podrl.experience.programs import make_unroller, trace_act
from podrl.experience.schedule import max_lag
from podrl.learning.fused import FusedLearner
from podrl.learning.micro_batches import partition_of
from podrl.learning.programs import make_learner, rollout_shapes
from podrl.learning.replay import replay_bytes
from podrl.learning.update_cost import Collective, shard_bytes, tree_bytes
from podrl.mesh import is_undivided
from podrl.performance.planning import costs
from podrl.performance.planning.costs import Cost
from podrl.performance.planning.hosts import config_of_host


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunCosts:
    """What an update of a run costs, and how its work is dealt out; all of the run as it would be on the slice."""

    config: Config  # with what was left to the machine
    hosts: int  # processes of the job
    actors: int  # actor devices of each host; 0 where environments are inside the compiled program
    learners: int  # learner devices of each host
    devices: int  # of each host
    model_devices: int  # that a layer is split over
    reductions: int  # optimizer steps in an update, each with a reduction of its own
    is_undivided: bool  # Every device has to learn (`podrl.mesh.is_undivided`).
    layout: Layout  # of the environments
    frames_per_step: int
    act: Cost | None  # of one acting step of one pool, on an actor device
    update: Cost  # on a learner device; with environments in the compiled program, everything
    state_bytes: int  # the learner's state, on each learner device
    replay_bytes: int  # of it, the replay's ring
    parameter_bytes: int  # of all parameters, whole
    upload_bytes: int  # to an actor device for one acting step of one pool
    download_bytes: int  # the actions of that step
    rollout_bytes: int  # that an update learns from, of one host
    compiled: bool  # A compiler told; else costs are counted from the program's equations.
    compile_s: float

    @property
    def is_fused(self) -> bool:
        """Whether environments are inside the compiled program."""
        return self.act is None

    @property
    def shares_devices(self) -> bool:
        """Whether some device both acts and learns."""
        return self.actors + self.learners > self.devices

    @property
    def actor_bytes(self) -> int:
        """An actor device's memory: all versions of the parameters, its pools' unrolls, and what acting takes."""
        if self.act is None:
            return 0
        pools = self.layout.pools_per_actor * self.config.actors.threads_per_device
        unrolls = pools * (self.act.argument_bytes - self.parameter_bytes)
        return self.acting_bytes + unrolls + self.act.temporary_bytes

    @property
    def acting_bytes(self) -> int:
        """The versions of the parameters on an actor device: the newest, and one for each update of policy lag."""
        return self.parameter_bytes * (1 + max_lag(self.config))

    @property
    def learner_bytes(self) -> int:
        """A learner device's memory: an update's, and that of rollouts that wait, one for each update of policy lag."""
        batch = self.update.argument_bytes - self.state_bytes
        return self.update.peak_bytes + max_lag(self.config) * batch

    @property
    def peak_bytes(self) -> int:
        """Memory that the fullest device needs."""
        together = self.learner_bytes + self.actor_bytes
        return together if self.shares_devices else max(self.learner_bytes, self.actor_bytes)

    @property
    def env_steps_of_host(self) -> float:
        """Env steps of one host in an update."""
        return self.config.env_steps_per_update / self.hosts

    @property
    def envs_of_host(self) -> float:
        """Environments of one host."""
        return self.config.actors.num_envs / self.hosts

    @property
    def acting_calls(self) -> int:
        """Acting steps of an actor device in an update."""
        threads = self.config.actors.threads_per_device
        return self.config.actors.unroll_length * threads * self.layout.pools_per_actor


def compile_for_devices(config: Config, devices: Sequence[jax.Device]) -> RunCosts:
    """Compiles a run for devices, which need not be there.

    Raises:
        ConfigError: if the config does not fit them.
        OutOfMemory: if a program does not fit a device's memory.
    """
    assembly = assemble(config, devices)

    def measure(traced: jax.stages.Traced, num_devices: int, state_bytes: int) -> Cost:
        try:
            compiled = traced.lower().compile()
        except jax.errors.JaxRuntimeError as error:
            raise costs.parse_shortage(error) or error from None
        return costs.compiled_cost(compiled, traced.jaxpr, devices[0].platform, config.topology.model_devices)

    return _cost_run(assembly, devices, measure, compiled=True)


def count(config: Config, *, hosts: int, devices: int, platform: str) -> RunCosts:
    """Counts a run's work from its programs' equations, traced for one host, whose work is each host's.

    As many CPU devices as a host has must be there to stand for them, whether their `platform` is gpu or cpu.
    """
    local = config_of_host(config, hosts)
    if platform != "cpu":  # What an accelerator would get where a CPU, which stands for it, gets something else.
        asked = config.topology
        loop = "rolled" if asked.step_loop == "auto" else asked.step_loop
        topology = dataclasses.replace(asked, micro_batches=max(1, asked.micro_batches), step_loop=loop)
        local = dataclasses.replace(local, topology=topology)
    assembly = assemble(local, jax.devices("cpu")[:devices])

    check(
        platform == "cpu" or not assembly.rules,
        "Sharded parameters (topology.sharding, topology.model_devices) are planned for TPU slices only: what crosses "
        "between devices then is the compiler's choice. Leave them out for GPUs.",
    )
    # What is unrolled into one program is not alive at once.
    shape, partition = assembly.config.agent.update_shape, partition_of(assembly.config)
    unrolled = 1 if shape.loops_steps and partition.rolls_steps else shape.optimizer_steps
    copies = unrolled * (1 if partition.rolls_micro_batches else partition.micro_batches)
    measure = functools.partial(_count_program, platform, copies)
    in_loop = True if platform != "cpu" else None  # As an accelerator would have it, for which a CPU stands.
    host = _cost_run(assembly, jax.devices("cpu")[:devices], measure, compiled=False, in_loop=in_loop)
    reduced = Collective(kind="all-reduce", axis="data", size_bytes=float(host.parameter_bytes * host.reductions))
    collectives = (reduced,) if hosts * host.learners > 1 else ()
    return dataclasses.replace(
        host,
        config=dataclasses.replace(host.config, actors=config.actors, replay=config.replay),
        hosts=hosts,
        layout=dataclasses.replace(host.layout, num_processes=hosts),
        update=dataclasses.replace(
            host.update, collectives=collectives, product_flops=host.update.product_flops * hosts
        ),
    )


def _count_program(platform: str, copies: int, traced: jax.stages.Traced, num_devices: int, state_bytes: int) -> Cost:
    jaxpr = costs.without_dead_code(traced.jaxpr)
    (_, *batch), _ = traced.args_info  # The first argument is the state.
    flops = costs.product_flops(jaxpr, platform)
    results = costs.product_bytes(jaxpr, platform, results=True, loops=False)
    return Cost(
        flops=flops / num_devices,
        bytes_accessed=costs.product_bytes(jaxpr, platform) / num_devices,
        argument_bytes=state_bytes + tree_bytes(batch) // num_devices,
        temporary_bytes=int(results / num_devices / copies),
        product_flops=flops,
    )


def _cost_run(
    assembly: Assembly,
    devices: Sequence[jax.Device],
    measure: Callable[[jax.stages.Traced, int, int], Cost],
    *,
    compiled: bool,
    in_loop: bool | None = None,
) -> RunCosts:
    start_s = time.perf_counter()
    config, spec, topology, layout = assembly.config, assembly.spec, assembly.topology, assembly.layout
    check((seeds := config.topology.seeds) == 1, f"Found topology.seeds={seeds}; a plan is of one seed. Use 1.")
    act, actors, upload, download, rollout = None, 0, 0, 0, 0
    program: Any
    if config.topology.placement == "anakin":
        environment = make_environment(assembly.source, config.env)
        program = FusedLearner(config, assembly.agent, environment, spec, topology, assembly.rules, in_loop=in_loop)
        traced = program.trace()
    else:
        unroller = make_unroller(config, assembly.agent, spec, layout)
        act = measure(trace_act(unroller, topology.local_actor_devices[0]), 1, tree_bytes(assembly.state_shape.params))
        actors = len(topology.local_actor_devices)
        upload, download = tree_bytes(unroller.timestep_shape), layout.envs_per_pool * tree_bytes(spec.actions.struct)
        rollout = layout.num_actors * layout.pools_per_actor * tree_bytes(unroller.state_shape.rollout)
        mesh = _stand_in(topology.learner, devices)
        agent, rules = make_split_agent(config, spec, mesh)
        program = make_learner(config, agent, spec, mesh, rules)
        traced = program.trace(rollout_shapes(unroller, layout))
    state_bytes = sum(map(shard_bytes, jax.tree.leaves(program.state_shape)))
    return RunCosts(
        config=config,
        hosts=topology.num_processes,
        actors=actors,
        learners=topology.local_learner.size,
        devices=topology.mesh.shape["device"],
        model_devices=config.topology.model_devices,
        reductions=config.optimizer_steps_per_update,
        is_undivided=is_undivided(devices),
        layout=layout,
        frames_per_step=spec.frames_per_step,
        act=act,
        update=measure(traced, topology.learner.size, state_bytes),
        state_bytes=state_bytes,
        replay_bytes=replay_bytes(assembly.state_shape),
        parameter_bytes=tree_bytes(assembly.state_shape.params),
        upload_bytes=upload,
        download_bytes=download,
        rollout_bytes=rollout,
        compiled=compiled,
        compile_s=time.perf_counter() - start_s,
    )


def _stand_in(learner: Mesh, devices: Sequence[jax.Device]) -> Mesh:
    """A mesh of as many devices, the first ones: libtpu compiles only for devices that are numbered without a gap.

    Programs for it differ from those of the learner's own devices in nothing but the devices' numbers.
    """
    if devices[0].platform == "cpu":
        return learner
    ordered = sorted(devices, key=lambda device: device.id)[: learner.size]
    return Mesh(np.array(ordered).reshape(learner.devices.shape), learner.axis_names, axis_types=learner.axis_types)
