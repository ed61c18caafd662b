"""The planner's model on this machine, with its own yardsticks, and how far it is from what the benchmark measures.

On a CPU everything shares the cores: the stages' core-seconds add up, arithmetic and memory traffic of the networks
too, as they come one after the other in a cache-sized part of a batch. What a run costs beyond its environments and
networks, in Python, in the hand-off and in calls of programs, is taken as so much for each acting call, as a run of
Catch has it, whose network and environments cost next to nothing.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
import dataclasses
import functools
import math
import multiprocessing
import os
from pathlib import Path
import signal
import threading
from typing import Any

from absl import logging
import jax

from podrl import commandline
from podrl.assembly import resolve
from podrl.config import Config, check
from podrl.instruments import make_copy, make_matmul
from podrl.layout import available_cores
from podrl.planning.compilation import RunCosts, count
from podrl.planning.costs import Cost
from podrl.planning.environments import env_steps_per_core, graph_env_steps_per_core
from podrl.stages import make_parts, time_end_to_end

# Of the copy yardstick's rate, by a network's products: they read and write in smaller pieces. Fitted, with quiet
# machines of the kind docs/scaling.md names, on Pong's and LunarLander's updates.
_MEMORY_SHARE = 0.35

# Core-seconds of each equation of a program, with small arrays. Fitted on HalfCheetah's update, which has 290,000.
_OPERATION_S = 8e-8

_WORKER_S = 600.0  # Longer than measuring and tracing take.

_CATCH = Path(__file__).resolve().parents[2] / "configs/impala_catch.py"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Yardsticks:
    """What this machine does in a second of one core, all cores busy.

    Attributes:
        flops: of float32 matrix products.
        bytes: that networks read and write.
        call_s: seconds of a core that an acting call takes in a run, whatever its network.
        cores: that there are.
    """

    flops: float
    bytes: float
    call_s: float
    cores: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalPrediction:
    """How fast a run will be on this machine.

    Attributes:
        env_steps_per_s: of the whole job.
        core_s: core-seconds of an env step: of `env`, `act`, `learn` and `calls`.
    """

    env_steps_per_s: float
    core_s: Mapping[str, float]


def measure_yardsticks(seconds: float = 2.0) -> Yardsticks:
    """Measures this machine; takes some ten seconds.

    Args:
        seconds: for the run of Catch.
    """
    cores = available_cores()
    _, time_matmul = make_matmul()
    time_copy = make_copy()
    flops = max(time_matmul() for _ in range(3)) * 1e9 / cores
    traffic = _MEMORY_SHARE * max(time_copy() for _ in range(3)) * 1e9 / cores
    config = resolve(commandline.load_config(str(_CATCH)))
    bare = Yardsticks(flops=flops, bytes=traffic, call_s=0.0, cores=cores)
    run = count(config, hosts=1, devices=1, platform="cpu")
    known = sum(core_seconds(run, bare, env_steps_per_core(config, seconds=1.0)).values())
    parts = make_parts(config)
    sample = min((time_end_to_end(parts, seconds) for _ in range(3)), key=lambda s: s.core_seconds_per_env_step)
    calls = _calls_per_env_step(run)
    return dataclasses.replace(bare, call_s=max(0.0, sample.core_seconds_per_env_step - known) / calls)


def predict_local(config: Config, yardsticks: Yardsticks, *, processes: int = 1, devices: int = 1) -> LocalPrediction:
    """How fast a run will be here.

    Args:
        config: of the run.
        yardsticks: of this machine.
        processes: of the job, all on this machine.
        devices: virtual CPU devices of each; JAX must have as many.

    Raises:
        ConfigError: if the config does not fit them, or its environments cannot be opened here.
    """
    run = count(config, hosts=processes, devices=devices, platform="cpu")
    rate = graph_env_steps_per_core(config) if run.is_fused else env_steps_per_core(config)
    costs = core_seconds(run, yardsticks, rate)
    by_cores = yardsticks.cores / sum(costs.values())
    return LocalPrediction(env_steps_per_s=min(by_cores, _by_threads(run, costs)), core_s=costs)


class Predictor:
    """Env steps per second of configs on this machine, whose yardsticks are measured when the first is asked for.

    A process of its own has JAX's threads, so that whoever asks can still fork.
    """

    def __init__(self, max_devices: int):
        """Starts nothing yet.

        Args:
            max_devices: virtual CPU devices of the largest process that will be asked about.
        """
        self._worker = ProcessPoolExecutor(
            max_workers=1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin_worker,
            initargs=(max_devices,),
        )
        self._is_first = True

    def __call__(self, config: Config, processes: int, devices: int) -> float:
        """Of a job of so many processes with so many virtual CPU devices each.

        Raises:
            ConfigError: if the config does not fit them.
            RuntimeError: if there is no answer in time.
        """
        if self._is_first:
            logging.info(
                "Measures this machine for the prediction, which takes some 20 s; --no_prediction leaves it out."
            )
            self._is_first = False
        asked = self._worker.submit(_predict_in_worker, config, processes, devices)
        try:
            return asked.result(timeout=_WORKER_S)
        except (TimeoutError, BrokenExecutor) as error:
            raise RuntimeError(f"No prediction within {_WORKER_S:.0f} s: {type(error).__name__}.") from error


def _begin_worker(max_devices: int) -> None:
    for signum in (signal.SIGINT, signal.SIGTERM):  # They are for the process that asks, whose group this is in.
        signal.signal(signum, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max_devices)


def _end_with_parent() -> None:
    """Ends this process when the one that asks is gone, whatever happened to it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(0)


@functools.cache
def _yardsticks_once() -> Yardsticks:
    return measure_yardsticks()


def _predict_in_worker(config: Config, processes: int, devices: int) -> float:
    return predict_local(config, _yardsticks_once(), processes=processes, devices=devices).env_steps_per_s


def _by_threads(run: RunCosts, costs: Mapping[str, float]) -> float:
    """Env steps per second at which the actor threads have no more time, each on one core at a time."""
    if run.is_fused:
        return math.inf
    waits = costs["env"] if run.layout.pools_per_actor == 1 else 0.0
    return run.layout.num_actors * run.hosts / (costs["act"] + costs["calls"] + waits)


def core_seconds(run: RunCosts, yardsticks: Yardsticks, env_steps_per_core_s: float) -> dict[str, float]:
    """Core-seconds of an env step, by who takes them.

    Args:
        run: what it costs, counted.
        yardsticks: of the machine.
        env_steps_per_core_s: of its environments alone.
    """

    def program_s(cost: Cost) -> float:
        busy_s = cost.flops / yardsticks.flops + cost.bytes_accessed / yardsticks.bytes
        return busy_s + cost.operations * _OPERATION_S

    steps = run.env_steps_of_host
    act = run.act and program_s(run.act) * run.acting_calls * run.actors
    return {
        "env": 1 / env_steps_per_core_s,
        "act": (act or 0.0) / steps,
        "learn": program_s(run.update) * run.learners / steps,
        "calls": yardsticks.call_s * _calls_per_env_step(run),
    }


def compare(prediction: LocalPrediction, config: Config, *, seconds: float = 4.0, repeats: int = 3) -> dict[str, Any]:
    """Runs what was predicted, in one process.

    Args:
        prediction: of it.
        config: of the run.
        seconds: for each repeat.
        repeats: of which the median counts.

    Returns:
        `predicted` and `measured` env steps per second, and `error`: by how much the first is off, as a share.
    """
    parts = make_parts(config)
    rates = sorted(time_end_to_end(parts, seconds).env_steps_per_second for _ in range(repeats))
    measured = rates[len(rates) // 2]
    error = prediction.env_steps_per_s / measured - 1
    return {"predicted": prediction.env_steps_per_s, "measured": measured, "error": error}


def parse_local(name: str) -> tuple[int, int]:
    """Processes, and devices of each, of `this` or `this:2x4`.

    Raises:
        ConfigError: if it is neither.
    """
    _, _, shape = name.partition(":")
    axes: Sequence[str] = shape.split("x") if shape else ("1", "1")
    check(
        len(axes) == 2 and all(axis.isdecimal() and axis.isascii() and int(axis) > 0 for axis in axes),
        f"--topology {name!r} must be `this`, or processes x devices of each, as in this:2x1.",
    )
    processes, devices = map(int, axes)
    return processes, devices


def _calls_per_env_step(run: RunCosts) -> float:
    """Acting calls of all pools for each env step; with environments in the program, calls of that."""
    if run.is_fused:
        return 1 / (run.env_steps_of_host * max(1, run.config.topology.updates_per_call))
    return run.acting_calls * run.actors / run.env_steps_of_host if run.env_steps_of_host else math.inf
