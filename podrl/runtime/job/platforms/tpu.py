"""TPUs: the place of a Cloud TPU machine, or of a pod on Google Kubernetes Engine, of one slice or of several.

Source: the facts are those that JAX's own detection rests on, `jax/_src/clusters`. That code is not called because it
may wait for minutes.
"""

from collections.abc import Callable, Mapping
import re

from podrl.config.config import check
from podrl.runtime.job.membership import Membership
from podrl.runtime.job.platforms.variables import whole_variable

TPU_PORT = 8482  # JAX's own choice.
JAX_PORT = "JAX_COORDINATOR_PORT"


def gke_membership(environ: Mapping[str, str]) -> Membership | None:
    """Returns the place of a pod on Google Kubernetes Engine with TPUs, of one slice or of several."""
    index, hosts = whole_variable(environ, "TPU_WORKER_ID"), _tpu_hosts(environ)
    return _tpu_slices("gke", "TPU slice on GKE", hosts, index, environ) if hosts and index is not None else None


def tpu_membership(environ: Mapping[str, str], metadata: Callable[[str], str | None]) -> Membership | None:
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
    slices = whole_variable(environ, "MEGASCALE_NUM_SLICES") or 1
    first = environ.get("MEGASCALE_COORDINATOR_ADDRESS", "").split(":")[0] or hosts[0]
    count = len(hosts) * slices
    return Membership(
        platform=platform,
        process_index=worker + (whole_variable(environ, "MEGASCALE_SLICE_ID") or 0) * len(hosts),
        process_count=count,
        coordinator=f"{first}:{_jax_port(environ)}" if count > 1 else None,
        job=job if slices == 1 else f"{job}s",
        hosts=tuple(hosts) if slices == 1 else (),
    )


def check_no_tpu_worker(environ: Mapping[str, str]) -> None:
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
