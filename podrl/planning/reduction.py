"""How long all-reduces take between processes on this machine: real ones, joined as a job's are.

`python -m podrl.planning.reduction ADDRESS COUNT INDEX BYTES...` is one of them; process 0 writes the seconds.
"""

from collections.abc import Sequence
import json
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


def measure_allreduce(processes: int, sizes_bytes: Sequence[int]) -> list[float]:
    """Median seconds of all-reduces of so many bytes between so many processes on this machine; 0 for one process.

    Raises:
        RuntimeError: if a process fails, or does not end in time; has its last line.
    """
    if processes == 1:
        return [0.0] * len(sizes_bytes)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with tempfile.TemporaryDirectory(prefix="podrl-reduction-") as folder:
        logs = [Path(folder) / f"log{index}" for index in range(processes)]
        started = [_start(address, processes, index, sizes_bytes, log) for index, log in enumerate(logs)]
        try:
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
        return json.loads(logs[0].read_text().splitlines()[-1])["allreduce_s"]


def _start(address: str, processes: int, index: int, sizes_bytes: Sequence[int], log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", __name__, address, str(processes), str(index), *map(str, sizes_bytes)]
    root = Path(__file__).resolve().parent.parent.parent
    with log.open("w") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=root)


def main(argv: Sequence[str]) -> None:
    """Joins the others, reduces, and writes the median of the seconds."""
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

    def median_s(size_bytes: int) -> float:
        ours = np.ones((1, max(1, size_bytes // 4)), np.float32)
        gradients = jax.make_array_from_process_local_data(split, ours)
        seconds = []
        for _ in range(_WARMUP + _REPEATS):
            start_s = time.perf_counter()
            jax.block_until_ready(add_up(gradients))
            seconds.append(time.perf_counter() - start_s)
        return statistics.median(seconds[_WARMUP:])

    found = [median_s(size_bytes) for size_bytes in sizes_bytes]
    if index == 0:
        sys.stdout.write(json.dumps({"allreduce_s": found}) + "\n")
        sys.stdout.flush()
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(sys.argv)
