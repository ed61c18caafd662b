"""Predictions from stages that were measured: on this machine, or on another by `tools/benchmark.py --json`.

Every process of a job on this machine has its share of the cores and of the environments. The stages of one process are
measured in a process of its own on such a share, and so are all-reduces between as many processes; a job is as fast as
that process, times their number.
"""

from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import functools
import json
import math
from pathlib import Path
import pickle
from typing import Any, NamedTuple

import jax

from podrl.config import programs
from podrl.config.config import Config, check
from podrl.config.config_dict import differences, to_dict
from podrl.envs.loading import load_environment
from podrl.envs.opening import make_pool
from podrl.envs.seeds import env_seeds
from podrl.launch.local import share_of_cores, usable_cores
from podrl.mistakes import shorten
from podrl.performance.benchmark.instruments import time_threads
from podrl.performance.benchmark.measure import Stage, open_stages
from podrl.performance.benchmark.random_play import make_random_play, step_pools
from podrl.performance.benchmark.relations import END_TO_END, LOCAL, PLAIN
from podrl.performance.benchmark.stages import Parts, make_parts
from podrl.performance.benchmark.whole_run import time_end_to_end
from podrl.performance.composition import COLLECT, OF_REPLAY, PROGRAM, Overlap, StageCost, compose
from podrl.performance.planning.reduction import reduce_step
from podrl.performance.planning.slices import parse_shape
from podrl.runtime.child import Child
from podrl.runtime.machine import available_cores
from podrl.runtime.tool import reading_file

_MAX_ENVS = 64
_STAGE_S = 1.0


class ProcessStages(NamedTuple):
    """The stages of one process as they were measured, and what its reductions with others need."""

    costs: dict[str, StageCost]  # of each stage, for an env step
    overlap: Overlap
    cores: float  # that the stages share; infinite where some run on accelerators
    env_steps_per_update: int
    reductions: int = 1
    gradient_bytes: int = 0


def predict_stages(stages: ProcessStages, processes: int = 1, step: StageCost | None = None) -> dict[str, Any]:
    """Predicts a run from the stages of one of its processes, and what is summed up between them in an optimizer step.

    Returns:
        `predicted` env steps per second of the whole job, the part that is its `limit`, and `wall_s` and `core_s` of
        each stage for an env step of one process.
    """
    alone = () if COLLECT not in stages.costs else ("env", "act", "transfer")  # Collecting has them.
    costs = {name: cost for name, cost in stages.costs.items() if name not in alone}
    if step is not None and processes > 1:
        share = stages.reductions / stages.env_steps_per_update
        costs["reduce"] = StageCost(step.wall_s * share, step.core_s * share)
    wall_s, core_s = ({name: getattr(cost, field) for name, cost in costs.items()} for field in StageCost._fields)
    found = compose(wall_s, stages.overlap, core_s=sum(core_s.values()), cores=stages.cores)
    return {"predicted": processes / found.seconds, "limit": found.limit, "wall_s": wall_s, "core_s": core_s}


def predict_here(config: Config, processes: int, devices: int) -> dict[str, Any]:
    """Predicts a job of so many processes, each with so many virtual CPU devices, on this machine, by `predict_stages`.

    A process of its own has JAX's threads, so that the caller can still fork.
    """
    with open_child(processes, devices) as child:
        return _predict_in(child, _share_of(config, processes), processes, devices)


def check_here(
    config: Config,
    processes: int,
    devices: int,
    run_job: Callable[[float], float],
    *,
    seconds: float = 4.0,
    repeats: int = 3,
) -> dict[str, Any]:
    """Predicts a run and runs it, in turns: machines change with their neighbours.

    Returns:
        The prediction of the repeat whose error is the median, with what was `measured`, the `error` as a share of it,
        and `error_min` and `error_max` of the repeats.
    """
    rows, own = [], _share_of(config, processes)
    with open_child(processes, devices) as child:
        for _ in range(repeats):
            row = _predict_in(child, own, processes, devices)
            alone = processes == devices == 1
            measured = child.ask(_time_run, own, devices, seconds) if alone else run_job(seconds)
            rows.append(row | {"measured": measured, "error": row["predicted"] / measured - 1})
    rows.sort(key=lambda row: row["error"])
    return rows[(repeats - 1) // 2] | {"error_min": rows[0]["error"], "error_max": rows[-1]["error"]}


def open_child(processes: int, devices: int) -> Child:
    """A process on the cores that one of so many has."""
    return Child(devices=devices, cores=share_of_cores(usable_cores(), 0, processes, devices) if processes > 1 else ())


def _share_of(config: Config, processes: int) -> bytes:
    """The config of one of so many processes, pickled."""
    num_envs = config.actors.num_envs
    check(num_envs % processes == 0, f"actors.num_envs={num_envs} does not divide over {processes} processes.")
    actors = dataclasses.replace(config.actors, num_envs=num_envs // processes)
    return pickle.dumps(dataclasses.replace(config, actors=actors))


def _predict_in(child: Child, config: bytes, processes: int, devices: int) -> dict[str, Any]:
    stages: ProcessStages = child.ask(measure_stages, config, devices, _STAGE_S)
    if processes == 1:
        return predict_stages(stages)
    if not share_of_cores(usable_cores(), 0, processes, devices):  # All share them.
        stages = stages._replace(cores=stages.cores / processes)
    return predict_stages(stages, processes, reduce_step(processes, stages.gradient_bytes, stages.reductions))


def measure_stages(config: bytes, devices: int, seconds: float) -> ProcessStages:
    """Measures each stage of a pickled config alone, for so many seconds, on the first devices of this process."""
    parts, stages = _open(config, devices)
    samples = {name: stages[name](seconds) for name in (COLLECT, "learn", PROGRAM) if name in stages}
    return ProcessStages(
        costs={name: StageCost(1 / s.env_steps_per_second, s.core_seconds_per_env_step) for name, s in samples.items()},
        overlap=parts.overlap,
        cores=available_cores() if jax.devices()[0].platform == "cpu" else math.inf,
        env_steps_per_update=parts.config.env_steps_per_update,
        reductions=parts.config.optimizer_steps_per_update,
        gradient_bytes=parts.parameter_bytes,
    )


def _time_run(config: bytes, devices: int, seconds: float) -> float:
    return time_end_to_end(_open(config, devices)[0], seconds).env_steps_per_second


@functools.lru_cache(maxsize=1)
def _open(config: bytes, devices: int) -> tuple[Parts, dict[str, Stage]]:
    """Compiles a pickled config once for all repeats; its pools end with this process."""
    parts = make_parts(pickle.loads(config), jax.devices()[:devices])
    return parts, open_stages(parts, contextlib.ExitStack())


def read_benchmark(path: Path, config: Config) -> tuple[ProcessStages, dict[str, Any]]:
    """Reads the stages of a config, and the whole report, from what `tools/benchmark.py --json` wrote."""
    with reading_file("--measured", path, f"{programs.program_of('benchmark')} --json"):
        report: dict[str, Any] = json.loads(path.read_text())
        machine, found = report["machine"], report["config"]
        changes = differences(found, json.loads(json.dumps(to_dict(config))))
        costs = {
            name: StageCost(1 / stage["env_steps_per_second"]["median"], stage["core_seconds_per_env_step"]["median"])
            for name, stage in report["stages"].items()
            if name not in (END_TO_END, PLAIN, LOCAL, *OF_REPLAY)
        }
        cores = machine["cores"] if machine["platform"] == "cpu" else math.inf
        stages = ProcessStages(costs, Overlap(**report["overlap"]), cores, config.env_steps_per_update)
    told = [f"{key}: measured with {before}, asked for {after}" for key, (before, after) in changes.items()]
    check(not told, f"--measured={path} is of another config: {shorten(told)}. Measure this one.")
    return stages, report


def predict_benchmark(stages: ProcessStages, report: Mapping[str, Any]) -> dict[str, Any]:
    """Predicts the run that a benchmark's report is of, and compares it with the whole run that the report has."""
    row = predict_stages(stages)
    samples = report["stages"][END_TO_END]["env_steps_per_second"]
    of = {"error": "median", "error_min": "max", "error_max": "min"}
    errors = {name: row["predicted"] / samples[which] - 1 for name, which in of.items()}
    return row | errors | {"measured": samples["median"]}


def env_steps_per_core(config: Config, *, seconds: float = 3.0) -> float:
    """Steps per second and core of the config's environments alone, with random actions, on all cores at once."""
    config, source, spec = load_environment(config)
    num_envs = min(config.actors.num_envs, _MAX_ENVS)
    act = make_random_play(spec, num_envs, config.seed)
    seeds = env_seeds(config.seed, list(range(num_envs)))
    threads = min(available_cores(), num_envs)
    pool = make_pool(source, config.env, seeds=seeds, env_numbers=range(num_envs), num_threads=threads)
    with contextlib.closing(pool):
        newest = [pool.reset()]
        found = time_threads(lambda _, turns: step_pools([pool], newest, act, turns) * num_envs, 1, seconds)
    return found.env_steps_per_second / available_cores()


def parse_local(name: str) -> tuple[int, int]:
    """Processes, and devices of each, of `this` or `this:2x4`."""
    shape = parse_shape(name.partition(":")[2] or "1x1")
    check(len(shape) == 2, f"--topology {name!r} must be `this`, or processes x devices of each, as in this:2x1.")
    return shape[0], shape[1]
