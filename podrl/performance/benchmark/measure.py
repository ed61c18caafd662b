"""Measures every stage of a run by itself, then all together, and says how close together comes to what they allow.

What the stages allow is what `podrl.performance.composition` makes of their times. It is an estimate: core-seconds
include threads that spin while they wait, which a run can put to better use, and leave out what stages take from each
other in caches and memory. So a run may pass its bound by a little.

Where environments are inside the compiled program, that is the only stage. Such a run is also measured against a plain
loop (`podrl.performance.benchmark.plain_loop`) that does the same with as little as possible. Replay has stages of its
own, which are parts of learning or of that program (`podrl.performance.benchmark.replay_stages`).

Repeats are interleaved over the stages (A B C A B C), because machines drift: a ratio of stages is taken inside a
repeat, where both met the same machine.
"""

from collections import defaultdict
from collections.abc import Callable
import contextlib
import dataclasses
import functools
import math
import sys
import time
from typing import Any

from absl import logging

from podrl.config.config import Config
from podrl.config.config_dict import to_dict
from podrl.learning.sharding import describe_split
from podrl.learning.update_cost import collective_bytes
from podrl.performance.benchmark import stages
from podrl.performance.benchmark.instruments import MachineSpeed, StageTime, describe_machine, peak_memory_bytes
from podrl.performance.benchmark.plain_loop import open_plain_loop
from podrl.performance.benchmark.relations import (
    END_TO_END,
    LOCAL,
    PLAIN,
    relate_runs,
    relate_to_stages,
    summarize_samples,
)
from podrl.performance.benchmark.remote_stage import time_workers
from podrl.performance.benchmark.replay_stages import open_replay_stages, relate_replay
from podrl.performance.benchmark.stages import Parts, make_parts
from podrl.performance.benchmark.whole_run import time_end_to_end, time_first_update
from podrl.performance.benchmark.workers import check_stages
from podrl.performance.composition import COLLECT, PROGRAM
from podrl.runtime.tool import refuse_module

Stage = Callable[[float], StageTime]  # (seconds to run for) -> what happened


def measure_run(config: Config, *, repeats: int, seconds: float, import_s: float) -> dict[str, Any]:
    """Measures every stage of a run `repeats` times, in turns.

    Args:
        config: The run's config.
        repeats: Repeats of each stage.
        seconds: How long each stage runs in each repeat; a stage ends with a whole unroll or update.
        import_s: Seconds since the process started, most of them for imports; part of the time to the first update.

    Returns:
        The report, ready for JSON: `stages` by name with rates (median, min, max over the repeats), `machine` with its
        yardsticks, `end_to_end` as fractions of what the stages allow, `replay` as `relate_replay` returns it or None,
        `first_update_s`, `peak_memory_bytes`.
    """
    start_s = time.perf_counter()
    machine = describe_machine()
    logging.info("compiling")
    check_stages(config)
    parts = make_parts(config)
    prepare_s = time.perf_counter() - start_s
    logging.info("first update")
    run_s = prepare_s + time_first_update(parts)
    spent_s = {"import": import_s, "compile": parts.compile_s, "rest": run_s - parts.compile_s}
    samples: dict[str, list[StageTime]] = defaultdict(list)
    with contextlib.ExitStack() as stack:
        for repeat in range(repeats):
            logging.info(f"repeat {repeat + 1} of {repeats}: {END_TO_END}")
            samples[END_TO_END].append(time_end_to_end(parts, seconds))
            if repeat == 0:
                memory = peak_memory_bytes()  # Of a run: the other stages hold a second set of everything.
                logging.info("opening the other stages")
                timers = open_stages(parts, stack)
                replay = open_replay_stages(parts)
                timers |= replay.timers if replay else {}
                if parts.is_fused and (plain := open_plain_loop(parts)):
                    timers[PLAIN] = plain
                yardsticks = MachineSpeed()
            for name, time_stage in timers.items():
                logging.info(f"repeat {repeat + 1} of {repeats}: {name}")
                samples[name].append(time_stage(seconds))
            yardsticks.measure()
    return describe_run(config, parts) | {
        "repeats": repeats,
        "seconds": seconds,
        "machine": machine | yardsticks.describe(),
        "first_update_s": spent_s | {"total": import_s + run_s},
        "peak_memory_bytes": memory,
        "stages": {
            name: summarize_samples(samples[name], parts.spec.frames_per_step) for name in [*timers, END_TO_END]
        },
        "end_to_end": relate_to_stages(
            samples, parts.overlap, machine["cores"] if machine["platform"] == "cpu" else math.inf
        ),
        "replay": replay and relate_replay(replay, samples, samples[PROGRAM if parts.is_fused else "learn"]),
    }


def compare_configs(config: Config, other: Config, *, repeats: int, seconds: float) -> dict[str, Any]:
    """Measures two runs, A and B, end to end in turns, A B A B, after both were compiled.

    Returns:
        The report, ready for JSON: `runs` A and B with their rates, `ratio` of B to A inside each repeat, and `machine`
        with its yardsticks.
    """
    machine = describe_machine()
    configs = {"A": config, "B": other}
    logging.info("compiling")
    parts = {name: make_parts(configs[name]) for name in configs}
    yardsticks = MachineSpeed()
    samples: dict[str, list[StageTime]] = defaultdict(list)
    for repeat in range(repeats):
        for name in configs:
            logging.info(f"repeat {repeat + 1} of {repeats}: {name}")
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


def measure_memory(config: Config) -> dict[str, Any]:
    """Compiles a run's update and runs nothing; returns what `describe_run` says, and `machine`."""
    logging.info("compiling")
    return describe_run(config, make_parts(config)) | {"machine": describe_machine()}


def describe_run(config: Config, parts: Parts) -> dict[str, Any]:
    """What was measured, whatever its speed; with what the update takes on each learner device."""
    memory = parts.programs.memory
    return {
        "config": to_dict(dataclasses.replace(config, env=parts.config.env)),  # With options as the source read them.
        "topology": parts.topology.describe(),
        "layout": dataclasses.asdict(parts.layout) | {"env_threads": parts.env_threads},
        "overlap": dataclasses.asdict(parts.overlap),
        "frames_per_step": parts.spec.frames_per_step,
        "compile_s": parts.compile_s,
        "parameters": describe_split(parts.programs.learner.state_shape.params),
        "update_traffic_bytes": dict(collective_bytes(parts.programs.update)),
        "update_memory_bytes": None if memory is None else dataclasses.asdict(memory),
    }


def open_stages(parts: Parts, stack: contextlib.ExitStack) -> dict[str, Stage]:
    """Makes what the single stages need, once for all repeats; `stack` closes the pools.

    Returns:
        The stages by name. `transfer` is there only if rollouts change devices. Where environments are inside the
        compiled program there is nothing but that.
    """
    if parts.is_fused:
        return {PROGRAM: functools.partial(stages.time_program, parts)}
    rollouts = stages.record_rollouts(parts)
    pools = stages.open_pools(parts, parts.source, stack)
    timesteps = [[pool.reset() for pool in actor_pools] for actor_pools in pools]
    timers: dict[str, Stage] = {
        "env": functools.partial(stages.time_env, parts, pools, timesteps),
        "act": functools.partial(stages.time_act, parts, timesteps),
        "learn": functools.partial(stages.time_learn, parts, rollouts),
    }
    if len({*parts.actor_devices, *parts.topology.local_learner.devices.flat}) > 1:
        timers["transfer"] = functools.partial(stages.time_transfer, parts, rollouts)
    if parts.config.remote.env_workers:
        timers[LOCAL] = timers["env"]
        timers["env"] = functools.partial(time_workers, parts)
    return timers | {COLLECT: functools.partial(stages.time_collect, parts)}


if __name__ == "__main__":
    sys.exit(refuse_module("podrl.performance.benchmark.measure", "benchmark --config impala_catch"))
