"""From a config and a slice to a plan."""

from collections.abc import Callable, Sequence
import dataclasses
import math

import jax

from podrl.config.config import Config, ConfigError, check
from podrl.experience.layout import make_layout
from podrl.mesh import Topology, make_topology
from podrl.performance.planning.compilation import RunCosts, compile_for_slice, count
from podrl.performance.planning.costs import OutOfMemory
from podrl.performance.planning.model import Hardware, Needs, Prediction, machine_of, needs, predict, scaling, splits
from podrl.performance.planning.remedies import Remedy, try_remedies
from podrl.performance.planning.slices import Slice, tpu_devices

# Of a GPU's memory that JAX takes unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
GPU_SHARE = 0.75


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What a plan needs to know that no compiler tells.

    Attributes:
        env_steps_per_vcpu_s: of environments alone on one hardware thread of the host; infinite where they are inside
            the compiled program.
        env_source: where that figure comes from, for people.
        vcpus: hardware threads of a host that step environments; None for nine in ten of them.
        achieved: share of the peaks that programs reach.
        dispatch_s: of one acting call, with its round trip between host and device.
    """

    env_steps_per_vcpu_s: float
    env_source: str
    vcpus: float | None
    achieved: float
    dispatch_s: float

    def describe(self) -> list[str]:
        """For people."""
        shares = f"programs reach {self.achieved:.0%} of the peaks of arithmetic and memory (assumed)"
        if math.isinf(self.env_steps_per_vcpu_s):
            left_out = "environments' own arithmetic and the latency of small operations are left out (an upper bound)"
            return [shares, left_out]
        return [
            f"environments: {self.env_steps_per_vcpu_s:,.0f} steps/s on each vCPU ({self.env_source})",
            shares,
            f"{self.dispatch_s * 1e3:g} ms for each acting call's round trip (assumed)",
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
    """A run that fits, and what is predicted of it.

    Attributes:
        run: what it costs.
        machine: what a host can do.
        prediction: how fast it will be.
        synchronous: the same with actors that wait for the newest parameters.
        needs: what a host needs to keep its devices busy.
        splits: (actors, learners, prediction) of the splits of a host's devices, the best first.
        weak: (hosts, prediction, efficiency), the batch growing with the hosts.
        strong: the same, the batch as it is.
    """

    run: RunCosts
    machine: Hardware
    prediction: Prediction
    synchronous: Prediction
    needs: Needs
    splits: Sequence[tuple[int, int, Prediction]]
    weak: Sequence[tuple[int, Prediction, float]]
    strong: Sequence[tuple[int, Prediction, float]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Misfit:
    """A run that does not fit.

    Attributes:
        shortage: by how much.
        remedies: what to change.
    """

    shortage: OutOfMemory
    remedies: Sequence[Remedy]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What was found out about a config on a slice.

    Attributes:
        name: of the config.
        env_id: the environment's.
        slice: the slice.
        note: what was changed of the config to plan it, for people.
        found: what came of it.
        assumptions: what the figures rest on that is not measured, for people.
    """

    name: str
    env_id: str
    slice: Slice
    note: str
    found: Fit | Misfit
    assumptions: Sequence[str]


def fit_environments(config: Config, slice_: Slice) -> tuple[Config, str]:
    """The config with as many environments on each host as it has in all, if they do not divide over the hosts.

    Args:
        config: of the run.
        slice_: of the chips.

    Returns:
        The config, and what was changed, for people; empty if nothing was.

    Raises:
        ConfigError: if they do not divide over the devices of one host.
    """
    if slice_.hosts == 1:
        return config, ""
    try:
        _check_layout(config, slice_)
    except ConfigError:
        more = dataclasses.replace(config.actors, num_envs=config.actors.num_envs * slice_.hosts)
        config = dataclasses.replace(config, actors=more)
        _check_layout(config, slice_)
        return config, (
            f"actors.num_envs does not divide over the pools, learner devices and minibatches of {slice_.hosts} hosts: "
            f"planned with as many on each host, {more.num_envs:,} in all."
        )
    return config, ""


def make_plan(config: Config, slice_: Slice, assumptions: Assumptions, *, tries: int = 2) -> Plan:
    """Compiles a config for a slice, or counts it for GPUs, and predicts.

    Args:
        config: of the run.
        slice_: of the chips.
        assumptions: what no compiler tells.
        tries: changes to compile where the config does not fit.

    Raises:
        ConfigError: if the config does not divide over the slice's devices.
    """
    config, note = fit_environments(config, slice_)
    return Plan(
        name=config.name,
        env_id=config.env.id,
        slice=slice_,
        note=note,
        found=_find(config, slice_, assumptions, tries),
        assumptions=_assumptions(slice_, assumptions),
    )


def _find(config: Config, slice_: Slice, assumptions: Assumptions, tries: int) -> Fit | Misfit:
    compile = _compiler(slice_)
    try:
        run = compile(config)
    except OutOfMemory as shortage:
        remedies = try_remedies(config, shortage, _envs_per_device(config, slice_), compile, tries=tries)
        return Misfit(shortage=shortage, remedies=remedies)
    machine = machine_of(
        slice_,
        float32=config.network.compute_dtype == "float32",
        env_steps_per_vcpu_s=assumptions.env_steps_per_vcpu_s,
        vcpus=assumptions.vcpus,
        achieved=assumptions.achieved,
        dispatch_s=assumptions.dispatch_s,
    )
    return Fit(
        run=run,
        machine=machine,
        prediction=predict(run, machine),
        synchronous=predict(run, machine, synchronous=True),
        needs=needs(run, machine),
        splits=[] if run.is_fused else splits(run, machine),
        weak=scaling(run, machine, weak=True),
        strong=scaling(run, machine, weak=False),
    )


def _compiler(slice_: Slice) -> Callable[[Config], RunCosts]:
    """What compiles or counts a config for a slice; it raises `OutOfMemory` if that does not fit."""
    hosts, devices = slice_.hosts, slice_.chips_per_host
    usable = slice_.chip.memory_bytes * (GPU_SHARE if slice_.chip.platform == "gpu" else 1.0)

    def compile(config: Config) -> RunCosts:
        if slice_.chip.platform == "gpu":
            run = count(config, hosts=hosts, devices=devices, platform="gpu")
        else:
            run = compile_for_slice(config, slice_)
        if run.peak_bytes > usable:
            raise OutOfMemory(run.peak_bytes, usable, "")
        return run

    return compile


def _envs_per_device(config: Config, slice_: Slice) -> int:
    """Environments of a minibatch on a learner device."""
    learners = _host_topology(config, slice_).local_learner.shape["data"]
    return max(1, config.actors.num_envs // slice_.hosts // learners // config.agent.update_shape.grid[0])


def _check_layout(config: Config, slice_: Slice) -> None:
    """Raises `ConfigError` unless environments divide over the slice."""
    if slice_.chip.platform == "tpu":
        make_layout(config, _host_topology(config, slice_))
        return
    check(
        config.actors.num_envs % slice_.hosts == 0, f"actors.num_envs must be a multiple of {slice_.hosts}, the hosts."
    )
    actors = dataclasses.replace(config.actors, num_envs=config.actors.num_envs // slice_.hosts)
    make_layout(dataclasses.replace(config, actors=actors), _host_topology(config, slice_))


def _host_topology(config: Config, slice_: Slice) -> Topology:
    """Who acts and who learns; of GPUs on one host, whose devices CPUs stand for."""
    is_tpu = slice_.chip.platform == "tpu"
    devices = tpu_devices(slice_) if is_tpu else jax.devices("cpu")[: slice_.chips_per_host]
    return make_topology(config.topology, devices, process_index=0)


def _assumptions(slice_: Slice, assumptions: Assumptions) -> list[str]:
    peaks = f"peaks of the chip and its host: {slice_.chip.source.rstrip('.')}"
    lines = [*assumptions.describe(), peaks]
    if slice_.chip.platform == "gpu":
        lines.append(f"JAX takes {GPU_SHARE:.0%} of a GPU's memory, its default")
        lines.append("arithmetic and memory traffic counted from the program's equations, memory from their results")
    return lines
