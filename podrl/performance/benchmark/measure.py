"""Measures every stage of a run by itself, then all together, and says how close together comes to what they allow.

Two bounds. A pipeline is no faster than its *slowest stage* alone. And where all stages share the same C cores, with
c_i core-seconds of CPU time that stage i takes per env step, it is no faster than the *core bound*, at which the
stages keep all cores busy:

    env steps per second <= C / (c_env + c_act + c_transfer + c_learn)

Both are estimates: c_i includes threads that spin while they wait, which a run can put to better use, and leaves out
what the stages take from each other in caches and memory. So a run may pass a bound by a little. A run is judged by
the core bound where cores are shared, and by its slowest stage where accelerators do a part of the work.

Where environments are inside the compiled program there are no stages to part: such a run is measured against a plain
loop (`podrl.performance.benchmark.plain_loop`) that does the same with as little as possible.

Repeats are interleaved over the stages (A B C A B C), because machines drift: a ratio of stages is taken inside a
repeat, where both met the same machine.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import functools
import statistics
import sys
import time
from typing import Any

from podrl.config.config import Config
from podrl.config.config_dict import to_dict
from podrl.learning.sharding import describe_split
from podrl.learning.update_cost import collective_bytes
from podrl.performance.benchmark.instruments import MachineSpeed, Sample, describe_machine, peak_memory_bytes, spread
from podrl.performance.benchmark.stages import (
    Parts,
    make_parts,
    open_plain_loop,
    open_pools,
    record_rollouts,
    time_act,
    time_end_to_end,
    time_env,
    time_first_update,
    time_learn,
    time_transfer,
)
from podrl.runtime.tool import refuse_module

END_TO_END = "end_to_end"
PLAIN = "plain"

Stage = Callable[[float], Sample]  # (seconds to run for) -> what happened


def measure_run(
    config: Config,
    *,
    repeats: int,
    seconds: float,
    import_s: float,
    show_phase: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measures every stage of a run `repeats` times, in turns.

    Args:
        config: of the run.
        repeats: of each stage.
        seconds: that each stage runs for, in each repeat; a stage ends with a whole unroll or update.
        import_s: seconds since the process started, most of them for imports; part of the time to the first update.
        show_phase: told what happens now.

    Returns:
        The report, ready for JSON: `stages` by name with rates (median, min, max over the repeats), `machine` with its
        yardsticks, `end_to_end` as fractions of what the stages allow, `first_update_s`, `peak_memory_bytes`.

    Raises:
        ConfigError: if the parts of the run do not fit together.
    """
    start_s = time.perf_counter()
    machine = describe_machine()
    show_phase("compiling")
    parts = make_parts(config)
    prepare_s = time.perf_counter() - start_s
    show_phase("first update")
    first_update_s = split_first_update(import_s, parts.compile_s, prepare_s + time_first_update(parts))
    samples: dict[str, list[Sample]] = defaultdict(list)
    with contextlib.ExitStack() as stack:
        for repeat in range(repeats):
            show_phase(f"repeat {repeat + 1} of {repeats}: {END_TO_END}")
            samples[END_TO_END].append(time_end_to_end(parts, seconds))
            if repeat == 0:
                memory = peak_memory_bytes()  # Of a run: the other stages hold a second set of everything.
                show_phase("opening the other stages")
                stages = open_stages(parts, stack)
                yardsticks = MachineSpeed()
            for name, time_stage in stages.items():
                show_phase(f"repeat {repeat + 1} of {repeats}: {name}")
                samples[name].append(time_stage(seconds))
            yardsticks.measure()
    return describe_run(config, parts) | {
        "repeats": repeats,
        "seconds": seconds,
        "machine": machine | yardsticks.describe(),
        "first_update_s": first_update_s,
        "peak_memory_bytes": memory,
        "stages": {
            name: summarize_samples(samples[name], parts.spec.frames_per_step) for name in [*stages, END_TO_END]
        },
        "end_to_end": (
            relate_to_plain(samples)
            if parts.is_fused
            else relate_to_bounds(samples, machine["cores"] if machine["platform"] == "cpu" else None)
        ),
    }


def compare_configs(
    config: Config,
    other: Config,
    *,
    repeats: int,
    seconds: float,
    show_phase: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measures two runs end to end in turns, A B A B, after both were compiled.

    Args:
        config: of run A.
        other: of run B.
        repeats: of the pair.
        seconds: that each run is measured for, in each repeat, about.
        show_phase: told what happens now.

    Returns:
        The report, ready for JSON: `runs` A and B with their rates, `ratio` of B to A inside each repeat, and `machine`
        with its yardsticks.

    Raises:
        ConfigError: if the parts of a run do not fit together.
    """
    machine = describe_machine()
    configs = {"A": config, "B": other}
    show_phase("compiling")
    parts = {name: make_parts(configs[name]) for name in configs}
    yardsticks = MachineSpeed()
    samples: dict[str, list[Sample]] = defaultdict(list)
    for repeat in range(repeats):
        for name in configs:
            show_phase(f"repeat {repeat + 1} of {repeats}: {name}")
            samples[name].append(time_end_to_end(parts[name], seconds))
        yardsticks.measure()
    frames_per_step = {name: parts[name].spec.frames_per_step for name in configs}
    return {
        "repeats": repeats,
        "seconds": seconds,
        "machine": machine | yardsticks.describe(),
        "runs": {
            name: describe_run(configs[name], parts[name]) | summarize_samples(samples[name], frames_per_step[name])
            for name in configs
        },
        "ratio": relate_runs(samples, frames_per_step),
    }


def measure_memory(config: Config, *, show_phase: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Compiles a run's update and runs nothing.

    Args:
        config: of the run.
        show_phase: told what happens now.

    Returns:
        The report, ready for JSON: what `describe_run` says, and `machine`.

    Raises:
        ConfigError: if the parts of the run do not fit together.
    """
    show_phase("compiling")
    return describe_run(config, make_parts(config)) | {"machine": describe_machine()}


def describe_run(config: Config, parts: Parts) -> dict[str, Any]:
    """What was measured, whatever its speed; with what the update takes on each learner device."""
    memory = parts.programs.memory
    return {
        "config": to_dict(config),
        "topology": parts.topology.describe(),
        "layout": dataclasses.asdict(parts.layout) | {"env_threads": parts.env_threads},
        "frames_per_step": parts.spec.frames_per_step,
        "compile_s": parts.compile_s,
        "parameters": describe_split(parts.programs.learner.state_shape.params),
        "update_traffic_bytes": dict(collective_bytes(parts.programs.update)),
        "update_memory_bytes": None if memory is None else dataclasses.asdict(memory),
    }


def split_first_update(import_s: float, compile_s: float, run_s: float) -> dict[str, float]:
    """Where the time from the process's start to the end of the first update goes.

    Args:
        import_s: seconds before `measure_run` was called.
        compile_s: seconds of `run_s` that compiling took.
        run_s: seconds of making the parts and of the first update.
    """
    return {"import": import_s, "compile": compile_s, "rest": run_s - compile_s, "total": import_s + run_s}


def open_stages(parts: Parts, stack: contextlib.ExitStack) -> dict[str, Stage]:
    """Makes what the single stages need, once for all repeats.

    Args:
        parts: of the run.
        stack: closes the pools.

    Returns:
        The stages by name. `transfer` is there only if rollouts change devices. Where environments are inside the
        compiled program there is nothing but the loop that it is compared with, if the two can be.
    """
    if parts.is_fused:
        plain = open_plain_loop(parts)
        return {PLAIN: plain} if plain else {}
    rollouts = record_rollouts(parts)
    pools = open_pools(parts, stack)
    timesteps = [[pool.reset() for pool in actor_pools] for actor_pools in pools]
    stages: dict[str, Stage] = {
        "env": functools.partial(time_env, parts, pools),
        "act": functools.partial(time_act, parts, timesteps),
        "learn": functools.partial(time_learn, parts, rollouts),
    }
    if len({*parts.actor_devices, *parts.topology.local_learner.devices.flat}) > 1:
        stages["transfer"] = functools.partial(time_transfer, parts, rollouts)
    return stages


def summarize_samples(samples: Sequence[Sample], frames_per_step: int) -> dict[str, Any]:
    """A stage's rates and costs over its repeats."""
    rates = [sample.env_steps_per_second for sample in samples]
    return {
        "env_steps_per_second": spread(rates),
        "frames_per_second": spread([rate * frames_per_step for rate in rates]),
        "core_seconds_per_env_step": spread([sample.core_seconds_per_env_step for sample in samples]),
        "others_cores": spread([sample.others_cores for sample in samples]),
        "samples": [dataclasses.asdict(sample) for sample in samples],
    }


def relate_runs(
    samples: Mapping[str, Sequence[Sample]], frames_per_step: Mapping[str, int]
) -> dict[str, dict[str, float]]:
    """Run B's rates as multiples of run A's, taken in each repeat; the two differ where frames per step do.

    Args:
        samples: of A and B, in the order of repeats.
        frames_per_step: of A and B.
    """
    rates = {name: [sample.env_steps_per_second for sample in repeats] for name, repeats in samples.items()}
    frames = {name: [rate * frames_per_step[name] for rate in repeats] for name, repeats in rates.items()}
    return {
        "env_steps_per_second": _fractions(rates["B"], rates["A"]),
        "frames_per_second": _fractions(frames["B"], frames["A"]),
    }


def relate_to_bounds(samples: Mapping[str, Sequence[Sample]], cores: int | None) -> dict[str, Any]:
    """What end-to-end is relative to what the other stages allow: the two bounds of this module's docstring.

    Args:
        samples: of every stage, in the order of repeats.
        cores: that all stages share; None if some run on accelerators.

    Returns:
        `bound`, which of the two counts ('cores' if they are shared, else 'slowest_stage'), its rate
        `bound_env_steps_per_second`, and end-to-end's fraction `of_bound`. Then both: the slowest stage (by median)
        and the core bound, with end-to-end's fractions; `others_cores`, that others had during end-to-end, and the
        fraction `of_core_bound_left` of the bound that is left without those. All fractions are taken in each repeat.
        The core bound is None without shared cores.
    """
    alone = {name: repeats for name, repeats in samples.items() if name != END_TO_END}
    rates = {name: [sample.env_steps_per_second for sample in repeats] for name, repeats in samples.items()}
    slowest = min(alone, key=lambda name: statistics.median(rates[name]))
    core_bounds = bounds_left = None
    if cores is not None:
        costs = [sum(s.core_seconds_per_env_step for s in repeat) for repeat in zip(*alone.values(), strict=True)]
        core_bounds = [cores / cost for cost in costs]
        # Time that others had comes in ticks, so a short repeat may seem to have had less than it used.
        left = [max(cores - s.others_cores, s.core_s / s.wall_s) for s in samples[END_TO_END]]
        bounds_left = [cores_left / cost for cores_left, cost in zip(left, costs, strict=True)]
    bounds = core_bounds or rates[slowest]
    return {
        "bound": "cores" if core_bounds else "slowest_stage",
        "bound_env_steps_per_second": spread(bounds),
        "of_bound": _fractions(rates[END_TO_END], bounds),
        "slowest_stage": slowest,
        "of_slowest_stage": _fractions(rates[END_TO_END], rates[slowest]),
        "core_bound_env_steps_per_second": core_bounds and spread(core_bounds),
        "of_core_bound": core_bounds and _fractions(rates[END_TO_END], core_bounds),
        "others_cores": spread([sample.others_cores for sample in samples[END_TO_END]]),
        "of_core_bound_left": bounds_left and _fractions(rates[END_TO_END], bounds_left),
    }


def relate_to_plain(samples: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    """End-to-end as a multiple of the plain loop, taken in each repeat; None without such a loop.

    Args:
        samples: of both, in the order of repeats.
    """
    rates = {name: [sample.env_steps_per_second for sample in repeats] for name, repeats in samples.items()}
    return {"of_plain": _fractions(rates[END_TO_END], rates[PLAIN]) if PLAIN in rates else None}


def _fractions(rates: Sequence[float], bounds: Sequence[float]) -> dict[str, float]:
    return spread([rate / bound for rate, bound in zip(rates, bounds, strict=True)])


if __name__ == "__main__":
    sys.exit(
        refuse_module("podrl.performance.benchmark.measure", "tools/benchmark.py --config configs/impala_catch.py")
    )
