"""What a machine's cores do in a second, and what a run asks of them.

On a CPU everything shares the cores: the stages' core-seconds add up, arithmetic and memory traffic of the networks
too, as they come one after the other in a cache-sized part of a batch. Large products and convolutions take the time
that each was measured to take (`podrl.performance.planning.products`); small ones that of a large product of their
arithmetic. What convolutions and small products read and write, and what is joined and padded for them, takes the time
in which images are laid out anew, which also stands for the work on single elements around them. What a run costs
beyond its environments and networks, in Python, in the hand-off and in calls of programs, is taken as so much for each
acting call, as a run of Catch has it, whose network and environments cost next to nothing. An operation on a small
array costs a share of that. Several processes also take core time for the messages of their reductions, which are timed
between as many.

Where environments are inside the compiled program nothing runs beside it, and cores that it leaves idle are lost. Its
parts come one after the other, but for two networks, where the value has one of its own.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import math
import statistics

import jax
from jax import numpy as jnp

from podrl.assembly import resolve
from podrl.config import commandline
from podrl.config.user_modules import ROOT
from podrl.networks.convolution import cut_patches
from podrl.performance.benchmark.instruments import CallTime, make_matmul, time_calls
from podrl.performance.benchmark.stages import make_parts, time_end_to_end
from podrl.performance.planning.compilation import RunCosts, count
from podrl.performance.planning.costs import Cost, Product, product_bytes
from podrl.performance.planning.environments import env_steps_per_core
from podrl.performance.planning.products import time_products
from podrl.performance.planning.reduction import NUMBER_BYTES, SMALL_SUMS, VOTES, measure_allreduce
from podrl.runtime.machine import available_cores

# Core-seconds of each equation of a program with small arrays, over those of an acting call: both are bound by how fast
# a core goes through instructions. Fitted on HalfCheetah's update, which has 290,000.
_OPERATION_SHARE = 2.6e-4

# Core time of stages that run beside others, which take caches and memory from them, over their time alone. Fitted on
# Pong's and the Nature CNN's runs: 1.11 and 1.12 times the sum of their stages.
_BESIDE_OTHERS = 1.1

# Cores that a program with environments keeps busy with two networks. Measured on ppo_minatar's.
_TWO_NETWORKS = 1.65

# Of the constants above, of which products are timed, and of how yardsticks are measured; those that were kept with
# another are measured again.
FIT = 7

_REPEATS = 3  # of which the median counts

# [N, H, W, C], as in the ResNet: 6.4 GB/s where images of four other layers of both networks gave 6.1 to 7.7.
_IMAGES_SHAPE = (32, 42, 42, 16)
_IMAGES_S = 0.5

_LARGE_BYTES = 2**20  # of an all-reduce, by which each byte's share is known

_CATCH = ROOT / "configs/impala_catch.py"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Yardsticks:
    """What this machine does in a second of one core, all cores busy.

    Attributes:
        flops: of large float32 matrix products.
        bytes: read and written where images are laid out anew, as `product_bytes` counts them.
        call_s: seconds of a core that an acting call takes in a run, whatever its network; operations on small arrays
            take a share of it.
        cores: that there are.
        allreduce_s: by the number of processes, as JSON has it: seconds of a core that an all-reduce between them takes
            of each, for a single number and for every byte more.
    """

    flops: float
    bytes: float
    call_s: float
    cores: int
    allreduce_s: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)


def make_yardsticks(processes: Iterable[int] = (), seconds: float = 1.0) -> Callable[[], Yardsticks]:
    """Compiles what measures this machine.

    Args:
        processes: numbers of them, of jobs that will be predicted.
        seconds: for each run of Catch.

    Returns:
        What measures it; takes some eight seconds, and as many for each number of processes above one.
    """
    counts = sorted({count for count in processes if count > 1})
    cores = available_cores()
    _, time_matmul = make_matmul()
    rate_relayout = _make_relayout()
    config = resolve(commandline.load_config(str(_CATCH)))
    run = count(config, hosts=1, devices=1, platform="cpu")
    parts = make_parts(config, jax.devices()[:1])

    def median(time_yardstick: Callable[[], float]) -> float:
        return statistics.median(time_yardstick() for _ in range(_REPEATS))

    def measure() -> Yardsticks:
        flops = median(time_matmul) * 1e9 / cores
        bare = Yardsticks(flops=flops, bytes=median(rate_relayout), call_s=0.0, cores=cores)
        env_steps_per_core_s = env_steps_per_core(config, seconds=1.0)
        product_times = time_products(run)

        def predict(call_s: float) -> float:
            found = core_seconds(run, dataclasses.replace(bare, call_s=call_s), env_steps_per_core_s, product_times)
            return sum(found.values())

        known_s = predict(0.0)
        whole_s = median(lambda: time_end_to_end(parts, seconds).core_seconds_per_env_step)
        return dataclasses.replace(
            bare,
            call_s=max(0.0, whole_s - known_s) / (predict(1.0) - known_s),
            allreduce_s={str(count): _time_allreduce(count) for count in counts},
        )

    return measure


def core_seconds(
    run: RunCosts,
    yardsticks: Yardsticks,
    env_steps_per_core_s: float,
    product_times: Mapping[Product, CallTime],
) -> dict[str, float]:
    """Core-seconds of an env step, by who takes them; of a fused program with those that it leaves idle.

    Args:
        run: what it costs, counted.
        yardsticks: of the machine.
        env_steps_per_core_s: of its environments alone.
        product_times: of each of its large products.

    Returns:
        Those of `env`, `act`, `learn`, `calls` and `reduce`.
    """
    slower = 1.0 if run.is_fused else _BESIDE_OTHERS
    env_idle, idle = _idle_factors(run, yardsticks.cores)

    def product_s(time: CallTime) -> float:
        return max(time.core_s, time.wall_s * idle)

    def program_s(cost: Cost) -> float:
        small_flops = cost.flops - sum(each.flops * times for each, times in cost.products)
        large_s = sum(product_s(product_times[each]) * times for each, times in cost.products)
        small_s = small_flops / yardsticks.flops + cost.bytes_accessed / yardsticks.bytes
        small_s += cost.operations * _OPERATION_SHARE * yardsticks.call_s
        return slower * (large_s + small_s * max(1.0, idle))

    steps = run.env_steps_of_host
    act = run.act and program_s(run.act) * run.acting_calls * run.actors
    return {
        "env": slower * max(1.0, env_idle) / env_steps_per_core_s,
        "act": (act or 0.0) / steps,
        "learn": program_s(run.update) * run.learners / steps,
        "calls": yardsticks.call_s * _calls_per_env_step(run),
        "reduce": _reduction_s(run, yardsticks) / steps,
    }


def _idle_factors(run: RunCosts, cores: int) -> tuple[float, float]:
    """Cores that a second on one core costs, of environments and of networks; 0 where others have those left idle."""
    if not run.is_fused:
        return 0.0, 0.0
    of_program = cores / (run.learners * run.hosts)
    return of_program, of_program / (_TWO_NETWORKS if run.config.network.separate_value else 1.0)


def _make_relayout() -> Callable[[], float]:
    """What networks on a CPU do to images for convolutions as products: they lay them out anew, in two ways.

    Returns:
        A function that does so for about half a second and returns bytes read and written, as `product_bytes` counts
        them, in a second of one busy core.
    """

    def lay_out(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        width = images.shape[2]
        padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
        shifted = jnp.stack([padded[:, :, column : column + width] for column in range(3)], axis=-1)
        return shifted, cut_patches(images, 4, 2)

    images = jnp.zeros(_IMAGES_SHAPE, jnp.float32)
    traced = jax.jit(lay_out).trace(images)
    program, size = traced.lower().compile(), product_bytes(traced.jaxpr, "cpu")
    return lambda: size / time_calls(lambda: jax.block_until_ready(program(images)), _IMAGES_S).core_s


def _time_allreduce(processes: int) -> list[float]:
    number, large = measure_allreduce(processes, [NUMBER_BYTES, _LARGE_BYTES])
    return [number.core_s, max(0.0, large.core_s - number.core_s) / (_LARGE_BYTES - NUMBER_BYTES)]


def _reduction_s(run: RunCosts, yardsticks: Yardsticks) -> float:
    """Core-seconds of a process in all reductions of an update."""
    if run.hosts == 1:
        return 0.0
    number_s, byte_s = yardsticks.allreduce_s[str(run.hosts)]
    step_s = (1 + SMALL_SUMS) * number_s + run.parameter_bytes * byte_s
    return run.reductions * step_s + VOTES * number_s


def _calls_per_env_step(run: RunCosts) -> float:
    """Acting calls of all pools for each env step; with environments in the program, calls of that."""
    if run.is_fused:
        return 1 / (run.env_steps_of_host * max(1, run.config.topology.updates_per_call))
    return run.acting_calls * run.actors / run.env_steps_of_host if run.env_steps_of_host else math.inf
