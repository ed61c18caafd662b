"""How long all-reduces take between processes on this machine: real ones, joined as a job's are.

`python -m podrl.planning.reduction ADDRESS COUNT INDEX BYTES...` is one of them; process 0 writes the seconds.
"""

from collections.abc import Sequence
import contextlib
import json
import os
from pathlib import Path
import socket
import statistics
import subprocess
import sys
import tempfile
import time

_REPEATS = 60
_WARMUP = 10
_LIMIT_S = 300.0
_BUSY = ("-c", "while True: pass")


def measure_allreduce(processes: int, sizes_bytes: Sequence[int], *, busy: bool = False) -> list[float]:
    """Mean seconds of all-reduces of so many bytes between so many processes on this machine; 0 for one process.

    Args:
        processes: that take part, each bound to its share of the cores as the launcher does it.
        sizes_bytes: of each all-reduce.
        busy: whether beside each of them a program runs that always wants a core, as actor threads do: then each
            message may wait for its turn.

    Raises:
        RuntimeError: if a process fails, or does not end in time; has its last line.
    """
    if processes == 1:
        return [0.0] * len(sizes_bytes)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with tempfile.TemporaryDirectory(prefix="podrl-reduction-") as folder:
        logs = [Path(folder) / f"log{index}" for index in range(processes)]
        cores = _shares(processes)
        rivals = [_run(_BUSY, share) for share in cores] if busy else []
        started = [
            _run(["-m", __name__, address, *map(str, (processes, index, *sizes_bytes))], cores[index], log)
            for index, log in enumerate(logs)
        ]
        try:
            deadline_s = time.monotonic() + _LIMIT_S
            for process in started:
                process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{processes} processes did not reduce anything within {_LIMIT_S:.0f} s.") from None
        finally:
            for process in (*started, *rivals):
                process.kill()
                process.wait()
        for process, log in zip(started, logs, strict=True):
            if process.returncode:
                lines = log.read_text().splitlines() or ["It said nothing."]
                raise RuntimeError(f"A process that should time an all-reduce failed: {lines[-1]}")
        return json.loads(logs[0].read_text().splitlines()[-1])["allreduce_s"]


def _shares(processes: int) -> list[set[int]]:
    """The cores of each process; all of them for each where there are fewer than processes, or nobody can bind them."""
    if not hasattr(os, "sched_getaffinity"):
        return [set()] * processes
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < processes:
        return [set(cores)] * processes
    return [set(cores[len(cores) * i // processes : len(cores) * (i + 1) // processes]) for i in range(processes)]


def _run(arguments: Sequence[str], cores: set[int], log: Path | None = None) -> subprocess.Popen[bytes]:
    root = Path(__file__).resolve().parent.parent.parent
    with contextlib.ExitStack() as stack:
        output = subprocess.DEVNULL if log is None else stack.enter_context(log.open("w"))
        started = subprocess.Popen([sys.executable, *arguments], stdout=output, stderr=subprocess.STDOUT, cwd=root)
    if cores:
        os.sched_setaffinity(started.pid, cores)
    return started


def main(argv: Sequence[str]) -> None:
    """Joins the others, reduces, and writes the means of the seconds."""
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    import numpy as np

    address, processes, index, *sizes_bytes = argv[1], *map(int, argv[2:])
    jax.config.update("jax_num_cpu_devices", 1)
    jax.config.update("jax_platforms", "cpu")
    jax.distributed.initialize(address, processes, index)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    split, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    add_up = jax.jit(lambda x: x.sum(0), out_shardings=whole)

    def mean_s(size_bytes: int) -> float:
        ours = np.ones((1, max(1, size_bytes // 4)), np.float32)
        gradients = jax.make_array_from_process_local_data(split, ours)
        seconds = []
        for _ in range(_WARMUP + _REPEATS):
            start_s = time.perf_counter()
            jax.block_until_ready(add_up(gradients))
            seconds.append(time.perf_counter() - start_s)
        return statistics.mean(seconds[_WARMUP:])

    found = [mean_s(size_bytes) for size_bytes in sizes_bytes]
    if index == 0:
        sys.stdout.write(json.dumps({"allreduce_s": found}) + "\n")
        sys.stdout.flush()
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(sys.argv)
