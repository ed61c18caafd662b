"""The benchmark's instruments: wall clock and CPU clock, peak memory, and the machine's facts and yardstick."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
import dataclasses
import importlib.metadata
import itertools
import os
import resource
import sys
import time
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
import numpy as np

from podrl.layout import available_cores
from podrl.workdir import LIBRARIES

_MATMUL_S = 0.5
_MATMUL_SIZES = (2048, 4096)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """One repeat of one stage.

    Attributes:
        env_steps: agent decisions that passed through the stage.
        wall_s: seconds it took.
        core_s: CPU seconds of all threads of this process; those that spin while they wait count as busy.
    """

    env_steps: int
    wall_s: float
    core_s: float

    @property
    def env_steps_per_second(self) -> float:
        """The stage's rate."""
        return self.env_steps / self.wall_s

    @property
    def core_seconds_per_env_step(self) -> float:
        """What one step costs the host, whoever waits for it."""
        return self.core_s / self.env_steps


class Clocks(NamedTuple):
    """Wall clock and the process's CPU clock, read at the same time."""

    wall_s: float
    core_s: float

    @classmethod
    def now(cls) -> "Clocks":
        """Reads both."""
        return cls(time.perf_counter(), time.process_time())

    def sample(self, env_steps: int, end: "Clocks") -> Sample:
        """What happened between this reading and the one at the end."""
        return Sample(env_steps=env_steps, wall_s=end.wall_s - self.wall_s, core_s=end.core_s - self.core_s)


def time_threads(work: Callable[[int, Iterator[int]], int], num_threads: int, seconds: float) -> Sample:
    """Times what threads do at the same time.

    Args:
        work: (thread, turns) -> env_steps; `turns` counts 1, 2, ... until the time is over.
        num_threads: that run `work`.
        seconds: to run for.
    """
    with ThreadPoolExecutor(num_threads, thread_name_prefix="benchmark") as executor:
        start = Clocks.now()
        turns = [_turns(start.wall_s + seconds) for _ in range(num_threads)]
        env_steps = sum(executor.map(work, range(num_threads), turns))
        return start.sample(env_steps, Clocks.now())


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
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "load_average": os.getloadavg()[0],
    }


def peak_memory_bytes() -> dict[str, int | None]:
    """Peaks so far: `process` is host memory, `device` the fullest device's; None where the backend does not count."""
    unit = 1 if sys.platform == "darwin" else 1024
    accounts = [device.memory_stats() or {} for device in jax.devices()]
    peaks = [account["peak_bytes_in_use"] for account in accounts if "peak_bytes_in_use" in account]
    return {
        "process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "device": max(peaks, default=None),
    }


def make_matmul() -> tuple[int, Callable[[], float]]:
    """The machine's yardstick: float32 matrix products on the default device, at JAX's default precision.

    Returns:
        The size n of the [n, n] matrices, and a function that multiplies them for about half a second and returns the
        rate in GFLOP/s.
    """

    def seconds(n: int, count: int) -> float:
        matrix = jnp.full((n, n), 0.5, jnp.float32)
        jax.block_until_ready(multiply(matrix, matrix))
        start_s = time.perf_counter()
        for _ in range(count):
            product = multiply(matrix, matrix)
        jax.block_until_ready(product)
        return time.perf_counter() - start_s

    multiply = jax.jit(jnp.matmul)
    smallest, largest = _MATMUL_SIZES
    fitting = smallest * (_MATMUL_S / seconds(smallest, 1)) ** (1 / 3)
    n = int(np.clip(fitting, smallest, largest)) // 256 * 256
    count = max(1, round(_MATMUL_S / seconds(n, 1)))
    return n, lambda: 2 * n**3 * count / seconds(n, count) / 1e9
