"""From a config and a slice to a plan, and from that to JSON."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import math
from typing import Any

import jax

from podrl.config.config import Config, ConfigError, check
from podrl.experience.layout import make_layout
from podrl.mesh import Topology, make_topology
from podrl.performance.planning.compilation import RunCosts, compile_for_devices, count
from podrl.performance.planning.costs import Cost, OutOfMemory
from podrl.performance.planning.model import Assumptions, Hardware, Prediction, machine_of, predict
from podrl.performance.planning.remedies import Remedy, try_remedies
from podrl.performance.planning.scaling import Needs, needs, scaling, splits
from podrl.performance.planning.slices import Slice, tpu_devices

# Of a GPU's memory that JAX takes unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
GPU_SHARE = 0.75


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
    """A run that fits, and what is predicted of it."""

    run: RunCosts
    machine: Hardware
    prediction: Prediction
    without_lag: Prediction  # with actors that wait for the newest parameters
    needs: Needs
    splits: Sequence[tuple[int, int, Prediction]]  # (actors, learners, prediction), the best first
    weak: Sequence[tuple[int, Prediction, float]]  # (hosts, prediction, efficiency), the batch growing with the hosts
    strong: Sequence[tuple[int, Prediction, float]]  # the same, the batch as it is


@dataclasses.dataclass(frozen=True, kw_only=True)
class Misfit:
    """A run that does not fit, and what to change."""

    shortage: OutOfMemory
    remedies: Sequence[Remedy]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What was found out about a config on a slice."""

    name: str  # of the config
    env_id: str
    slice: Slice
    note: str  # what was changed of the config to plan it, for people
    found: Fit | Misfit
    assumptions: Sequence[str]  # what the figures rest on that is not measured, for people


def fit_environments(config: Config, slice_: Slice) -> tuple[Config, str]:
    """The config with as many environments on each host as it has in all, if they do not divide over the hosts.

    Returns:
        The config, and what was changed, for people; empty if nothing was.
    """
    if slice_.hosts > 1:
        try:
            _check_layout(config, slice_)
        except ConfigError:
            more = dataclasses.replace(config.actors, num_envs=config.actors.num_envs * slice_.hosts)
            config = dataclasses.replace(config, actors=more)
            _check_layout(config, slice_)
            return config, (
                f"actors.num_envs does not divide over the pools, learner devices and minibatches of {slice_.hosts} "
                f"hosts: planned with as many on each host, {more.num_envs:,} in all."
            )
    return config, ""


def make_plan(config: Config, slice_: Slice, assumptions: Assumptions, *, tries: int = 2) -> Plan:
    """Compiles a config for a slice, or counts it for GPUs, and predicts."""
    config, note = fit_environments(config, slice_)
    about = [*assumptions.describe(), f"peaks of the chip and its host: {slice_.chip.source.rstrip('.')}"]
    if slice_.chip.platform == "gpu":
        about.append(f"JAX takes {GPU_SHARE:.0%} of a GPU's memory, its default")
        about.append("arithmetic and memory traffic counted from the program's equations, memory from their results")
    found = _find(config, slice_, assumptions, tries)
    return Plan(name=config.name, env_id=config.env.id, slice=slice_, note=note, found=found, assumptions=about)


def _find(config: Config, slice_: Slice, assumptions: Assumptions, tries: int) -> Fit | Misfit:
    compile = functools.partial(_compile, slice_)
    try:
        run = compile(config)
    except OutOfMemory as shortage:
        learners = _host_topology(config, slice_).local_learner.shape["data"]
        rows = config.actors.num_envs // slice_.hosts // learners // config.agent.update_shape.grid[0]
        return Misfit(shortage=shortage, remedies=try_remedies(config, shortage, max(1, rows), compile, tries=tries))
    machine = machine_of(slice_, assumptions, float32=config.network.compute_dtype == "float32")
    return Fit(
        run=run,
        machine=machine,
        prediction=predict(run, machine),
        without_lag=predict(run, machine, lag=0),
        needs=needs(run, machine),
        splits=[] if run.is_fused else splits(run, machine),
        weak=scaling(run, machine, weak=True),
        strong=scaling(run, machine, weak=False),
    )


def _compile(slice_: Slice, config: Config) -> RunCosts:
    """Compiles or counts a config for a slice; raises `OutOfMemory` if it does not fit."""
    is_gpu = slice_.chip.platform == "gpu"
    if is_gpu:
        run = count(config, hosts=slice_.hosts, devices=slice_.chips_per_host, platform="gpu")
    else:
        run = compile_for_devices(config, tpu_devices(slice_))
    usable = slice_.chip.memory_bytes * (GPU_SHARE if is_gpu else 1.0)
    if run.peak_bytes > usable:
        raise OutOfMemory(run.peak_bytes, usable, "")
    return run


def _check_layout(config: Config, slice_: Slice) -> None:
    """Raises `ConfigError` unless environments divide over the slice."""
    if slice_.chip.platform == "gpu":  # Those of one host, for which CPU devices stand.
        hosts, num_envs = slice_.hosts, config.actors.num_envs
        check(num_envs % hosts == 0, f"actors.num_envs must be a multiple of {hosts}, the hosts.")
        config = dataclasses.replace(config, actors=dataclasses.replace(config.actors, num_envs=num_envs // hosts))
    make_layout(config, _host_topology(config, slice_))


def _host_topology(config: Config, slice_: Slice) -> Topology:
    """Who acts and who learns; of GPUs on one host, whose devices CPUs stand for."""
    is_tpu = slice_.chip.platform == "tpu"
    devices = tpu_devices(slice_) if is_tpu else jax.devices("cpu")[: slice_.chips_per_host]
    return make_topology(config.topology, devices, process_index=0)


def plan_to_json(plan: Plan, price_per_chip_hour: float | None) -> dict[str, Any]:
    """A plan as JSON has it: sizes in bytes, times in seconds; null for what is infinite or not known."""
    found = plan.found
    told: dict[str, Any] = {
        "config": plan.name,
        "env_id": plan.env_id,
        "topology": plan.slice.name,
        "chips": plan.slice.chips,
        "hosts": plan.slice.hosts,
        "note": plan.note,
        "fits": not isinstance(found, Misfit),
        "assumptions": list(plan.assumptions),
    }
    if isinstance(found, Misfit):
        remedies = [{"arguments": one.arguments, "fits": bool(one.run)} for one in found.remedies]
        return _finite(told | dataclasses.asdict(found.shortage) | {"remedies": remedies})
    run, price = found.run, price_per_chip_hour
    told |= {
        "compiled": run.compiled,
        "actors_per_host": run.actors,
        "learners_per_host": run.learners,
        "act": run.act and _cost(run.act),
        "update": _cost(run.update),
        "env_steps_per_update": run.config.env_steps_per_update,
        "frames_per_step": run.frames_per_step,
        "state_bytes": run.state_bytes,
        "replay_bytes": run.replay_bytes,
        "machine": dataclasses.asdict(found.machine),
        "prediction": dataclasses.asdict(found.prediction),
        "synchronous": dataclasses.asdict(found.without_lag),
        "needs_of_host": found.needs._asdict(),
        "splits": [{"actors": a, "learners": n} | dataclasses.asdict(one) for a, n, one in found.splits],
        "price_per_billion_frames": price and price_of_billion_frames(found.prediction, plan.slice, price),
    }
    for name, rows in (("weak", found.weak), ("strong", found.strong)):
        told[name] = [{"hosts": n, "efficiency": share} | dataclasses.asdict(one) for n, one, share in rows]
    return _finite(told)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cost(cost: Cost) -> dict[str, Any]:
    return dataclasses.asdict(cost) | {"traffic": cost.traffic}


def price_of_billion_frames(found: Prediction, slice_: Slice, price_per_chip_hour: float) -> float:
    """The price of a billion frames, in the currency of the chip's."""
    return price_per_chip_hour * slice_.chips * 1e9 / found.frames_per_s / 3600
