"""What all-reduces take between processes on this machine: real ones, joined as a job's are."""

from collections.abc import Sequence
from concurrent import futures
import contextlib
import socket

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from podrl.launch.local import share_of_cores, usable_cores
from podrl.performance.benchmark.instruments import Clocks
from podrl.performance.composition import StageCost
from podrl.runtime.child import Child

# What is reduced beside gradients. In each optimizer step, by podrl's compiled update of IMPALA: the transitions that
# count, and what is divided by them. Once in each update: whether to stop.
SMALL_SUMS = 2
VOTES = 1
_NUMBER_BYTES = 4

_REPEATS = 60
_WARMUP = 10
_LIMIT_S = 300.0


def reduce_step(processes: int, gradient_bytes: int, reductions: int) -> StageCost:
    """Measures what is summed up in an optimizer step, with its share of what the update sums up once."""
    gradients, number = measure_allreduce(processes, [gradient_bytes, _NUMBER_BYTES])
    count = SMALL_SUMS + VOTES / reductions
    return StageCost(gradients.wall_s + count * number.wall_s, gradients.core_s + count * number.core_s)


def measure_allreduce(processes: int, sizes_bytes: Sequence[int]) -> list[StageCost]:
    """Means of all-reduces of so many bytes between so many processes on this machine; nothing for one process.

    Each is bound to its share of the cores as the launcher does it.

    Raises:
        RuntimeError: if a process fails, or does not end in time.
    """
    if processes == 1:
        return [StageCost()] * len(sizes_bytes)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    shares = [share_of_cores(usable_cores(), index, processes, 1) for index in range(processes)]
    with futures.ThreadPoolExecutor(processes) as threads, contextlib.ExitStack() as stack:
        children = [stack.enter_context(Child(cores=share)) for share in shares]
        asked = [
            threads.submit(child.ask, _reduce, address, processes, index, sizes_bytes, limit_s=_LIMIT_S)
            for index, child in enumerate(children)
        ]
        done, _ = futures.wait(asked, return_when=futures.FIRST_EXCEPTION)
        return next(iter([each.result() for each in done]))


def _reduce(address: str, processes: int, index: int, sizes_bytes: Sequence[int]) -> list[StageCost]:
    """Joins the other processes, reduces, and returns the means."""
    jax.distributed.initialize(address, processes, index)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    split, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    add_up = jax.jit(lambda x: x.sum(0), out_shardings=whole)

    def mean(size_bytes: int) -> StageCost:
        ours = np.ones((1, max(1, size_bytes // 4)), np.float32)
        gradients = jax.make_array_from_process_local_data(split, ours)
        for _ in range(_WARMUP):
            jax.block_until_ready(add_up(gradients))
        start = Clocks.now()
        for _ in range(_REPEATS):
            jax.block_until_ready(add_up(gradients))
        total = start.sample(1, Clocks.now())
        return StageCost(total.wall_s / _REPEATS, total.core_s / _REPEATS)

    found = [mean(size_bytes) for size_bytes in sizes_bytes]
    jax.distributed.shutdown()
    return found
