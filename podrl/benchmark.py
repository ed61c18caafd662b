"""Measures every stage of a run by itself, then all together, and says how close together comes to what they allow.

Two bounds. A pipeline is no faster than its *slowest stage* alone. And where all stages share the same C cores, with
c_i core-seconds of CPU time that stage i takes per env step, it is no faster than the *core bound*, at which the
stages keep all cores busy:

    env steps per second <= C / (c_env + c_act + c_transfer + c_learn)

Both are estimates: c_i includes threads that spin while they wait, which a run can put to better use, and leaves out
what the stages take from each other in caches and memory. So a run may pass a bound by a little.

Repeats are interleaved over the stages (A B C A B C), because machines drift: a ratio of stages is taken inside a
repeat, where both met the same machine.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import functools
import statistics
from typing import Any

from podrl.config import Config, to_dict
from podrl.instruments import Sample, describe_machine, make_matmul, peak_memory_bytes
from podrl.stages import (
    Parts,
    make_parts,
    open_pools,
    record_rollouts,
    time_act,
    time_end_to_end,
    time_env,
    time_learn,
    time_transfer,
)

END_TO_END = "end_to_end"

Stage = Callable[[float], Sample]  # (seconds to run for) -> what happened


def measure(
    config: Config, *, repeats: int, seconds: float, show_phase: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Measures every stage of a run `repeats` times, in turns.

    Args:
        config: of the run.
        repeats: of each stage.
        seconds: that each stage runs for, in each repeat; a stage ends with a whole unroll or update.
        show_phase: told what happens now.

    Returns:
        The report, ready for JSON: `stages` by name with rates (median, min, max over the repeats), `machine` with its
        yardstick, `end_to_end` as fractions of what the stages allow, `compile_s`, `peak_memory_bytes`.

    Raises:
        ConfigError: if the parts of the run do not fit together.
    """
    machine = describe_machine()
    show_phase("compiling")
    parts = make_parts(config)
    samples: dict[str, list[Sample]] = defaultdict(list)
    gflops: list[float] = []
    with contextlib.ExitStack() as stack:
        for repeat in range(repeats):
            show_phase(f"repeat {repeat + 1} of {repeats}: {END_TO_END}")
            samples[END_TO_END].append(time_end_to_end(parts, seconds))
            if repeat == 0:
                memory = peak_memory_bytes()  # Of a run: the other stages hold a second set of everything.
                show_phase("opening the other stages")
                stages = open_stages(parts, stack)
                matmul_n, time_matmul = make_matmul()
            for name, time_stage in stages.items():
                show_phase(f"repeat {repeat + 1} of {repeats}: {name}")
                samples[name].append(time_stage(seconds))
            gflops.append(time_matmul())
    return {
        "config": to_dict(config),
        "topology": parts.topology.describe(),
        "layout": dataclasses.asdict(parts.layout) | {"env_threads": parts.env_threads},
        "frames_per_step": parts.spec.frames_per_step,
        "repeats": repeats,
        "seconds": seconds,
        "machine": machine | {"matmul_n": matmul_n, "matmul_gflops": spread(gflops)},
        "compile_s": parts.compile_s,
        "peak_memory_bytes": memory,
        "stages": {name: summarize(samples[name], parts.spec.frames_per_step) for name in [*stages, END_TO_END]},
        "end_to_end": compare(samples, machine["cores"] if machine["platform"] == "cpu" else None),
    }


def open_stages(parts: Parts, stack: contextlib.ExitStack) -> dict[str, Stage]:
    """Makes what the single stages need, once for all repeats.

    Args:
        parts: of the run.
        stack: closes the pools.

    Returns:
        The stages by name. `transfer` is there only if rollouts change devices.
    """
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


def summarize(samples: Sequence[Sample], frames_per_step: int) -> dict[str, Any]:
    """A stage's rates and costs over its repeats."""
    rates = [sample.env_steps_per_second for sample in samples]
    return {
        "env_steps_per_second": spread(rates),
        "frames_per_second": spread([rate * frames_per_step for rate in rates]),
        "core_seconds_per_env_step": spread([sample.core_seconds_per_env_step for sample in samples]),
        "samples": [dataclasses.asdict(sample) for sample in samples],
    }


def compare(samples: Mapping[str, Sequence[Sample]], cores: int | None) -> dict[str, Any]:
    """What end-to-end is relative to what the other stages allow: the two bounds of this module's docstring.

    Args:
        samples: of every stage, in the order of repeats.
        cores: that all stages share; None if some run on accelerators.

    Returns:
        The slowest stage (by median), the core bound, and end-to-end's fractions `of_slowest_stage` and
        `of_core_bound`, taken in each repeat. The core bound is None without shared cores.
    """
    alone = {name: repeats for name, repeats in samples.items() if name != END_TO_END}
    rates = {name: [sample.env_steps_per_second for sample in repeats] for name, repeats in samples.items()}
    slowest = min(alone, key=lambda name: statistics.median(rates[name]))
    bounds = None
    if cores is not None:
        costs = [sum(s.core_seconds_per_env_step for s in repeat) for repeat in zip(*alone.values(), strict=True)]
        bounds = [cores / cost for cost in costs]
    return {
        "slowest_stage": slowest,
        "of_slowest_stage": _fractions(rates[END_TO_END], rates[slowest]),
        "core_bound_env_steps_per_second": bounds and spread(bounds),
        "of_core_bound": bounds and _fractions(rates[END_TO_END], bounds),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, min and max."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _fractions(rates: Sequence[float], bounds: Sequence[float]) -> dict[str, float]:
    return spread([rate / bound for rate, bound in zip(rates, bounds, strict=True)])
