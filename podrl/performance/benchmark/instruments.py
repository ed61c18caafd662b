"""The benchmark's instruments: wall clock and CPU clock, peak memory, and the machine's facts and yardsticks."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
import contextlib
import dataclasses
import itertools
import os
from pathlib import Path
import resource
import statistics
import sys
import time
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp

from podrl.runtime.machine import available_cores, busy_core_seconds
from podrl.runtime.software import find_versions

_YARDSTICK_S = 0.5
_MATMUL_SIZES = (2048, 4096)  # n of the [n, n] matrices on a CPU, which would take long for more, and elsewhere
QUIET_LOAD = 0.25  # of a core, by the load average: from here on other work disturbs what is measured


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageTime:
    """One repeat of one stage."""

    env_steps: int  # agent decisions that passed through the stage
    wall_s: float
    core_s: float  # CPU seconds of this process's threads and of those that it started; threads that spin count as busy
    others_s: float = 0.0  # core-seconds that others had of this process's cores (`busy_core_seconds`)
    wire_bytes: int = 0  # messages to and from environment workers

    @property
    def env_steps_per_second(self) -> float:
        """The stage's rate."""
        return self.env_steps / self.wall_s

    @property
    def core_seconds_per_env_step(self) -> float:
        """What one step costs the host, whichever thread waits for it."""
        return self.core_s / self.env_steps

    @property
    def others_cores(self) -> float:
        """How many cores others had on average."""
        return self.others_s / self.wall_s


class Clocks(NamedTuple):
    """Wall clock, the CPU clock of this process and those that it started, and that of its cores, read at once."""

    wall_s: float
    core_s: float
    busy_s: float

    @classmethod
    def now(cls) -> "Clocks":
        """Reads all."""
        return cls(time.perf_counter(), time.process_time() + children_core_seconds(), busy_core_seconds())

    def sample(self, env_steps: int, end: "Clocks") -> StageTime:
        """What happened between this reading and the one at the end."""
        wall_s, core_s, busy_s = (later - earlier for earlier, later in zip(self, end, strict=True))
        return StageTime(env_steps=env_steps, wall_s=wall_s, core_s=core_s, others_s=max(0.0, busy_s - core_s))


def children_core_seconds() -> float:
    """CPU seconds of the processes that this one has started; of those that still run only where `/proc` tells."""
    ticks = 0
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # A thread that has ended.
            for child in path.read_text().split():
                with contextlib.suppress(OSError):
                    stat = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
                    ticks += sum(map(int, stat[11:15]))  # Its own, and those of children that it has waited for.
    ended = os.times()
    return ended.children_user + ended.children_system + ticks / os.sysconf("SC_CLK_TCK")


def time_threads(work: Callable[[int, Iterator[int]], int], num_threads: int, seconds: float) -> StageTime:
    """Times what threads do at the same time: `work` is (thread, turns) -> env steps, until the turns are over."""
    with ThreadPoolExecutor(num_threads, thread_name_prefix="benchmark") as executor:
        start = Clocks.now()
        turns = [_turns(start.wall_s + seconds) for _ in range(num_threads)]
        env_steps = sum(executor.map(work, range(num_threads), turns))
        return start.sample(env_steps, Clocks.now())


def time_calls(call: Callable[[], None], env_steps_per_call: int, seconds: float) -> StageTime:
    """Times calls of a function, one after the other, each of which takes in so many env steps."""

    def work(_: int, turns: Iterator[int]) -> int:
        env_steps = 0
        for _ in turns:
            call()
            env_steps += env_steps_per_call
        return env_steps

    return time_threads(work, 1, seconds)


def _turns(end_s: float) -> Iterator[int]:
    for turn in itertools.count(1):
        yield turn
        if time.perf_counter() >= end_s:
            return


def describe_machine() -> dict[str, Any]:
    """What runs here, and with what; `load_average` is that of the last minute."""
    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "devices": len(devices),
        "cores": available_cores(),
        "versions": find_versions(),
        "load_average": os.getloadavg()[0],
    }


def peak_memory_bytes() -> dict[str, int | None]:
    """Peaks so far: `process` is host memory, `device` the fullest device's; None where the backend does not count."""
    unit = 1 if sys.platform == "darwin" else 1024
    accounts = [device.memory_stats() or {} for device in jax.devices()]
    return {
        "process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "device": max((a["peak_bytes_in_use"] for a in accounts if "peak_bytes_in_use" in a), default=None),
    }


def process_age_s() -> float:
    """Seconds since this process started; its CPU seconds, which for imports are close, where no `/proc` tells."""
    stat = Path("/proc/self/stat")
    if not (stat.exists() and hasattr(time, "CLOCK_BOOTTIME")):
        return time.process_time()
    after_name = stat.read_text().rpartition(")")[2].split()  # The program's name, in brackets, may hold spaces.
    start_ticks = int(after_name[19])  # Field 22 of proc_pid_stat(5), in ticks since the machine's start.
    return time.clock_gettime(time.CLOCK_BOOTTIME) - start_ticks / os.sysconf("SC_CLK_TCK")


class MachineSpeed:
    """The rate of float32 matrix products, measured in every repeat: it tells a slow program from a slow machine."""

    def __init__(self) -> None:
        """Compiles the product, of [n, n] matrices on the default device at JAX's default precision."""
        self._n = _MATMUL_SIZES[jax.devices()[0].platform != "cpu"]
        self._square = jax.jit(lambda matrix: matrix @ matrix)
        self._gflops: list[float] = []
        self._seconds(1)
        self._count = max(1, round(_YARDSTICK_S / max(self._seconds(1), 1e-4)))

    def measure(self) -> None:
        """Takes about half a second."""
        self._gflops.append(2 * self._n**3 * self._count / self._seconds(self._count) / 1e9)

    def describe(self) -> dict[str, Any]:
        """Median, min and max of the rate so far, in GFLOP/s."""
        return {"matmul_n": self._n, "matmul_gflops": spread(self._gflops)}

    def _seconds(self, count: int) -> float:
        """Seconds of so many products, each of what the one before returned, which stays what it is."""
        matrix = jax.block_until_ready(jnp.full((self._n, self._n), 1 / self._n, jnp.float32))
        start_s = time.perf_counter()
        for _ in range(count):
            matrix = self._square(matrix)
        jax.block_until_ready(matrix)
        return time.perf_counter() - start_s


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, min and max."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
