"""What all-reduces take between processes on this machine: real ones, joined as a job's are.

`python -m podrl.performance.planning.reduction ADDRESS COUNT INDEX BYTES...` is one of them; process 0 writes what it
found.
"""

from collections.abc import Sequence
import dataclasses
import json
import os
from pathlib import Path
import socket
import subprocess
import sys
import threading
import time

from podrl.config.user_modules import ROOT
from podrl.launch.local import share_of_cores, usable_cores
from podrl.runtime.machine import suit_xla_to_cpu
from podrl.runtime.temporary import temporary_folder

# What is reduced beside gradients. In each optimizer step, by podrl's compiled update of IMPALA: the transitions that
# count, and what is divided by them. Once in each update: whether to stop.
SMALL_SUMS = 2
VOTES = 1
NUMBER_BYTES = 4

_REPEATS = 60
_WARMUP = 10
_LIMIT_S = 300.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reduction:
    """What an all-reduce takes.

    Attributes:
        wall_s: seconds from its start until its result is there, on machines that do nothing else.
        core_s: seconds that each process keeps a core busy meanwhile.
    """

    wall_s: float = 0.0
    core_s: float = 0.0

    def __add__(self, other: "Reduction") -> "Reduction":
        """One after the other."""
        return Reduction(wall_s=self.wall_s + other.wall_s, core_s=self.core_s + other.core_s)

    def __mul__(self, count: float) -> "Reduction":
        """So many of them."""
        return Reduction(wall_s=self.wall_s * count, core_s=self.core_s * count)


def measure_allreduce(processes: int, sizes_bytes: Sequence[int]) -> list[Reduction]:
    """Means of all-reduces of so many bytes between so many processes on this machine; nothing for one process.

    Args:
        processes: that take part, each bound to its share of the cores as the launcher does it.
        sizes_bytes: of each all-reduce.

    Raises:
        RuntimeError: if a process fails, or does not end in time; has its last line.
    """
    if processes == 1:
        return [Reduction()] * len(sizes_bytes)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with temporary_folder("reduction") as folder:
        logs = [Path(folder) / f"log{index}" for index in range(processes)]
        shares = [share_of_cores(usable_cores(), index, processes, 1) for index in range(processes)]
        started: list[subprocess.Popen[bytes]] = []
        try:
            for index, log in enumerate(logs):
                arguments = [address, *map(str, (processes, index, *sizes_bytes))]
                started.append(_run(arguments, shares[index], log))
            deadline_s = time.monotonic() + _LIMIT_S
            for process in started:
                process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{processes} processes did not reduce anything within {_LIMIT_S:.0f} s.") from None
        finally:
            for process in started:
                process.kill()
                process.wait()
        for process, log in zip(started, logs, strict=True):
            if process.returncode:
                lines = log.read_text().splitlines() or ["It said nothing."]
                raise RuntimeError(f"A process that should time an all-reduce failed: {lines[-1]}")
        return [Reduction(**found) for found in json.loads(logs[0].read_text().splitlines()[-1])["allreduce"]]


def _run(arguments: Sequence[str], cores: Sequence[int], log: Path) -> subprocess.Popen[bytes]:
    with log.open("w") as output:
        started = subprocess.Popen(
            [sys.executable, "-m", __name__, *arguments],
            stdin=subprocess.PIPE,  # Its end is that of this process.
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
        )
    if cores:
        os.sched_setaffinity(started.pid, cores)
    return started


def _end_with_parent() -> None:
    os.read(0, 1)  # Not through `sys.stdin`, whose lock Python would want while it shuts down.
    os._exit(1)


def main(argv: Sequence[str]) -> None:
    """Joins the others, reduces, and writes the means."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    import numpy as np

    from podrl.performance.benchmark.instruments import Clocks

    suit_xla_to_cpu(os.environ)
    address, processes, index, *sizes_bytes = argv[1], *map(int, argv[2:])
    jax.config.update("jax_num_cpu_devices", 1)
    jax.config.update("jax_platforms", "cpu")
    jax.distributed.initialize(address, processes, index)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    split, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    add_up = jax.jit(lambda x: x.sum(0), out_shardings=whole)

    def mean(size_bytes: int) -> dict[str, float]:
        ours = np.ones((1, max(1, size_bytes // 4)), np.float32)
        gradients = jax.make_array_from_process_local_data(split, ours)
        for _ in range(_WARMUP):
            jax.block_until_ready(add_up(gradients))
        start = Clocks.now()
        for _ in range(_REPEATS):
            jax.block_until_ready(add_up(gradients))
        total = start.sample(1, Clocks.now())
        return {"wall_s": total.wall_s / _REPEATS, "core_s": total.core_s / _REPEATS}

    found = [mean(size_bytes) for size_bytes in sizes_bytes]
    if index == 0:
        sys.stdout.write(json.dumps({"allreduce": found}) + "\n")
        sys.stdout.flush()
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(sys.argv)
