"""A process's place: alone, or one of several of a job. Imports no JAX, so mistakes show at once.

Flags take precedence; then come the variables of SLURM, Open MPI or a TPU machine. Each platform has its own way to
agree on the coordinator: the address at which process 0 expects the others.

Sources: the facts about the platforms are those that JAX's own detection rests on, `jax/_src/clusters`. That code is
not called because it restricts a process that has a whole GPU host to one GPU, and because it may wait for minutes.
"""

from collections.abc import Callable, Mapping
import dataclasses
import hashlib
import re
import socket

from podrl.config.config import ConfigError, check
from podrl.runtime.job.addresses import check_address
from podrl.runtime.job.tpu_metadata import tpu_metadata

TPU_PORT = 8482  # JAX's own choice.
JAX_PORT = "JAX_COORDINATOR_PORT"
_FIRST_PORT, _PORTS = 61440, 4096  # Above the ports that Linux gives to outgoing connections.
_SPECIAL_STEP = 0xFFFFFFF0  # The script of `sbatch` and the shell of `salloc` may be steps, numbered from here.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Membership:
    """A process's place in its job.

    Attributes:
        platform: where the place was found: 'alone', 'flags', 'slurm', 'openmpi', 'tpu' or 'gke'.
        process_index: index of the process, from 0.
        process_count: number of processes in the job.
        coordinator: 'host:port' where process 0 expects the others; None in a job of one process.
        local_index: index among the job's processes on this host, from 0.
        processes_here: number of the job's processes on this host, as far as the platform says.
        job: the job's name, for people; empty if it has none.
        hosts: host of every process, by index; empty where the platform does not say.
        host: this process's host.
    """

    platform: str
    process_index: int = 0
    process_count: int = 1
    coordinator: str | None = None
    local_index: int = 0
    processes_here: int = 1
    job: str = ""
    hosts: tuple[str, ...] = ()
    host: str = dataclasses.field(default_factory=socket.gethostname)

    def __post_init__(self) -> None:
        """Checks that the numbers fit together."""
        index, count = self.process_index, self.process_count
        check(count >= 1, f"--process_count={count} must be at least 1.")
        check(
            0 <= index < count,
            f"--process_index={index} must be between 0 and {count - 1}, because there are {count} processes.",
        )

    def describe(self) -> str:
        """Returns one line for the log."""
        if self.process_count == 1:
            return f"{self.job}: the only process" if self.job else "One process"
        name = f"{self.job}: process" if self.job else "Process"
        coordinator = f", coordinator {self.coordinator}"
        return f"{name} {self.process_index} of {self.process_count} on {self.host}{coordinator}"

    def name_of(self, index: int) -> str:
        """Returns a process's name for people: `process 1 (node2)`."""
        return f"process {index} ({self.hosts[index]})" if index < len(self.hosts) else f"process {index}"


def find_membership(
    environ: Mapping[str, str],
    *,
    coordinator: str | None = None,
    process_count: int | None = None,
    process_index: int | None = None,
    metadata: Callable[[str], str | None] = tpu_metadata,
) -> Membership:
    """Finds this process's place in its job.

    Args:
        environ: the process's environment variables.
        coordinator: value of the flag --coordinator; replaces the platform's choice.
        process_count: value of the flag --process_count.
        process_index: value of the flag --process_index.
        metadata: returns the value that a TPU machine's metadata server has for a key; None on other machines.

    Raises:
        ConfigError: if the flags are incomplete or contradict the platform, or the platform's facts are incomplete.
        MetadataError: if a TPU machine's metadata server does not answer.
    """
    if coordinator is not None:
        check_address(coordinator)
    found = _slurm(environ) or _openmpi(environ, coordinator) or _gke(environ)
    if found is None and None in (process_count, process_index):
        found = _tpu(environ, metadata)
    if process_count is None and process_index is None:
        check(
            coordinator is None or (found is not None and found.process_count > 1),
            f"--coordinator={coordinator} needs --process_count and --process_index too: nothing here says how many "
            "processes there are.",
        )
        if found is None:
            _check_no_worker(environ)
            return Membership(platform="alone")
        return dataclasses.replace(found, coordinator=coordinator) if coordinator else found
    if process_count is None or process_index is None:
        given, missing = ("count", "index") if process_index is None else ("index", "count")
        raise ConfigError(f"--process_{given} is given, but --process_{missing} is not. Give both, or none of them.")
    if found is not None and found.process_count > 1:
        check(
            (process_count, process_index) == (found.process_count, found.process_index),
            f"--process_index={process_index} --process_count={process_count} contradicts {found.job}, in which this "
            f"is process {found.process_index} of {found.process_count}. Remove these flags, or take --alone.",
        )
        return dataclasses.replace(found, coordinator=coordinator or found.coordinator)
    check(
        coordinator is not None or process_count == 1,
        f"--process_count={process_count} needs --coordinator=HOST:PORT, an address of process 0's host that all "
        "the others reach, the same for all.",
    )
    return Membership(
        platform="flags",
        process_index=process_index,
        process_count=process_count,
        coordinator=coordinator if process_count > 1 else None,
    )


def expand_nodes(nodes: str) -> list[str]:
    """Expands names in SLURM's notation: `a[01-02,7],b` is a01, a02, a7, b."""
    names: list[str] = []
    for prefix, ranges in re.findall(r"([^,\[\]]+)(?:\[([^\]]*)\])?", nodes):
        for part in ranges.split(",") if ranges else [""]:
            first, _, last = part.partition("-")
            numbers = range(int(first), int(last or first) + 1) if first else []
            names += [f"{prefix}{number:0{len(first)}d}" for number in numbers] or [prefix]
    return names


def _slurm(environ: Mapping[str, str]) -> Membership | None:
    """Returns the place of a task that `srun` started; None in the script of `sbatch` and in the shell of `salloc`.

    Those have a job and may have a SLURM_PROCID, but only a step has SLURM_STEP_NODELIST.
    """
    if not all(name in environ for name in ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID")):
        return None
    number = {
        name: _whole(environ, name) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_LOCALID")
    }
    count = _whole(environ, "SLURM_STEP_NUM_TASKS") or _whole(environ, "SLURM_NTASKS") or 1
    job, step = number["SLURM_JOB_ID"] or 0, number["SLURM_STEP_ID"] or 0
    if step >= _SPECIAL_STEP:
        return None
    nodes = expand_nodes(environ["SLURM_STEP_NODELIST"])
    tasks = _tasks_per_node(environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    in_blocks = environ.get("SLURM_DISTRIBUTION", "block").startswith("block") or max(tasks, default=0) == 1
    hosts = [node for node, num in zip(nodes, tasks, strict=False) for _ in range(num)] if in_blocks else []
    node = _whole(environ, "SLURM_NODEID")
    here = tasks[node] if node is not None and node < len(tasks) else -(-count // len(nodes))
    return Membership(
        platform="slurm",
        process_index=number["SLURM_PROCID"] or 0,
        process_count=count,
        coordinator=f"{nodes[0]}:{_port(job + 521 * step)}" if count > 1 else None,
        local_index=number["SLURM_LOCALID"] or 0,
        processes_here=here if number["SLURM_LOCALID"] is not None else 1,
        job=f"SLURM job {job}, step {step}",
        hosts=tuple(hosts) if len(hosts) == count else (),
        host=environ.get("SLURMD_NODENAME") or socket.gethostname(),
    )


def _tasks_per_node(text: str) -> list[int]:
    """Expands SLURM's `2(x3),1` to 2, 2, 2, 1."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(num) for num, times in found for _ in range(int(times or 1))]


def _openmpi(environ: Mapping[str, str], coordinator: str | None) -> Membership | None:
    """Returns the place of a process that Open MPI's `mpirun` started."""
    count = _whole(environ, "OMPI_COMM_WORLD_SIZE")
    index = _whole(environ, "OMPI_COMM_WORLD_RANK")
    if count is None or index is None:
        return None
    here = _whole(environ, "OMPI_COMM_WORLD_LOCAL_SIZE") or 1
    if coordinator is None and count > 1:
        coordinator = _openmpi_coordinator(environ, everybody_here=here == count)
    return Membership(
        platform="openmpi",
        process_index=index,
        process_count=count,
        coordinator=coordinator if count > 1 else None,
        local_index=_whole(environ, "OMPI_COMM_WORLD_LOCAL_RANK") or 0,
        processes_here=here if "OMPI_COMM_WORLD_LOCAL_RANK" in environ else 1,
        job="Open MPI",
    )


def _openmpi_coordinator(environ: Mapping[str, str], *, everybody_here: bool) -> str:
    """Returns the address of `mpirun`'s host, where process 0 runs too, with a port made from the job's number.

    Only Open MPI 4 passes that address to the processes: `1531576320.0;tcp://10.96.0.1,10.148.0.1:34911`.
    """
    uri = environ.get("OMPI_MCA_orte_hnp_uri", "")
    name = uri.partition(";")[0] or environ.get("PMIX_NAMESPACE", "")
    port = _port(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big"))
    if everybody_here:
        return f"127.0.0.1:{port}"
    found = re.search(r"tcp://([^,:]+)|tcp6://\[([^,\]]+)", uri)
    check(
        found is not None,
        "Open MPI does not say on which host process 0 runs. Add --coordinator=HOST:PORT, an address of that host that "
        "all the others reach, the same for all.",
    )
    ipv4, ipv6 = found.groups()  # type: ignore[union-attr]
    return f"{ipv4}:{port}" if ipv4 else f"[{ipv6}]:{port}"


def _gke(environ: Mapping[str, str]) -> Membership | None:
    """Returns the place of a pod on Google Kubernetes Engine with TPUs, of one slice or of several."""
    index, hosts = _whole(environ, "TPU_WORKER_ID"), _tpu_hosts(environ)
    return _tpu_slices("gke", "TPU slice on GKE", hosts, index, environ) if hosts and index is not None else None


def _check_no_worker(environ: Mapping[str, str]) -> None:
    """Raises `ConfigError` if the variables say that this is one of several workers of a TPU slice, but not which."""
    hosts, index = _tpu_hosts(environ), environ.get("TPU_WORKER_ID")
    check(
        len(hosts) < 2 and (bool(hosts) or index in (None, "", "0")),
        f"TPU_WORKER_HOSTNAMES={','.join(hosts)} and TPU_WORKER_ID={index or ''} say that this is one of several "
        "workers of a TPU slice, but not which one. Set both; or give --coordinator, --process_count and "
        "--process_index, or --alone for a run of this worker only.",
    )


def _tpu_hosts(environ: Mapping[str, str]) -> list[str]:
    workers = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES") or ""
    return [worker.split(":")[0] for worker in workers.split(",") if worker]


def _tpu(environ: Mapping[str, str], metadata: Callable[[str], str | None]) -> Membership | None:
    """Returns the place of a Cloud TPU machine, of one slice or of several."""
    if "TPU_SKIP_MDS_QUERY" in environ:
        return None
    index, endpoints = metadata("agent-worker-number"), metadata("worker-network-endpoints")
    if index is None and endpoints is None:
        return None
    check(
        bool(endpoints) and (index or "").isdigit(),
        f"This TPU machine's metadata has agent-worker-number={index!r} and worker-network-endpoints={endpoints!r}, so "
        "whether it is part of a pod is not known. If it is not, add --alone; otherwise give --coordinator, "
        "--process_count and --process_index.",
    )
    # Entries are hosts or, in an older format, name:id:address.
    hosts = [endpoint.split(":")[-1] for endpoint in (endpoints or "").split(",")]
    facts = dict(re.findall(r"^\s*(\w+)\s*:\s*'?([^'\n]*)'?\s*$", metadata("tpu-env") or "", re.M))
    return _tpu_slices("tpu", "TPU slice", hosts, int(index or 0), {**facts, **environ})


def _tpu_slices(platform: str, job: str, hosts: list[str], worker: int, environ: Mapping[str, str]) -> Membership:
    """Numbers the hosts of equal slices in sequence: the first host of slice 1 follows the last of slice 0."""
    slices = _whole(environ, "MEGASCALE_NUM_SLICES") or 1
    first = environ.get("MEGASCALE_COORDINATOR_ADDRESS", "").split(":")[0] or hosts[0]
    count = len(hosts) * slices
    return Membership(
        platform=platform,
        process_index=worker + (_whole(environ, "MEGASCALE_SLICE_ID") or 0) * len(hosts),
        process_count=count,
        coordinator=f"{first}:{_jax_port(environ)}" if count > 1 else None,
        job=job if slices == 1 else f"{job}s",
        hosts=tuple(hosts) if slices == 1 else (),
    )


def _jax_port(environ: Mapping[str, str]) -> int:
    """Returns JAX_COORDINATOR_PORT, unless Kubernetes has set it for a service of that name.

    Raises:
        ConfigError: if the value is no port.
    """
    value = environ.get(JAX_PORT, "")
    if not value or is_of_kubernetes(value):
        return TPU_PORT
    check(
        value.isascii() and value.isdigit() and 0 < int(value) < 2**16,
        f"The environment variable {JAX_PORT}={value!r} is not a port. Unset it, or give a number from 1 to 65535.",
    )
    return int(value)


def is_of_kubernetes(value: str) -> bool:
    """Returns whether Kubernetes sets this value in every pod for a service: `tcp://10.0.0.1:1234`."""
    return value.startswith(("tcp://", "udp://", "sctp://"))


def _port(number: int) -> int:
    """Returns a port for a job's number, so that jobs that share a host use different ones."""
    return _FIRST_PORT + number % _PORTS


def _whole(environ: Mapping[str, str], name: str) -> int | None:
    """Returns a variable's whole number; None if it is unset or empty.

    Raises:
        ConfigError: if the value is anything else.
    """
    value = environ.get(name)
    if value is None or value == "":
        return None
    check(value.lstrip("-").isdigit(), f"The environment variable {name}={value!r} is not a whole number.")
    return int(value)
