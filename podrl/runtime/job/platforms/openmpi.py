"""Open MPI: the place of a process that `mpirun` started.

Source: the facts are those that JAX's own detection rests on, `jax/_src/clusters`.
"""

from collections.abc import Mapping
import hashlib
import re

from podrl.config.config import check
from podrl.runtime.job.membership import Membership
from podrl.runtime.job.platforms.variables import port_of_job, whole_variable


def openmpi_membership(environ: Mapping[str, str], coordinator: str | None) -> Membership | None:
    """Returns the place of a process that Open MPI's `mpirun` started."""
    count = whole_variable(environ, "OMPI_COMM_WORLD_SIZE")
    index = whole_variable(environ, "OMPI_COMM_WORLD_RANK")
    if count is None or index is None:
        return None
    here = whole_variable(environ, "OMPI_COMM_WORLD_LOCAL_SIZE") or 1
    if coordinator is None and count > 1:
        coordinator = _openmpi_coordinator(environ, everybody_here=here == count)
    return Membership(
        platform="openmpi",
        process_index=index,
        process_count=count,
        coordinator=coordinator if count > 1 else None,
        local_index=whole_variable(environ, "OMPI_COMM_WORLD_LOCAL_RANK") or 0,
        processes_here=here if "OMPI_COMM_WORLD_LOCAL_RANK" in environ else 1,
        job="Open MPI",
    )


def _openmpi_coordinator(environ: Mapping[str, str], *, everybody_here: bool) -> str:
    """Returns the address of `mpirun`'s host, where process 0 runs too, with a port made from the job's number.

    Only Open MPI 4 passes that address to the processes: `1531576320.0;tcp://10.96.0.1,10.148.0.1:34911`.
    """
    uri = environ.get("OMPI_MCA_orte_hnp_uri", "")
    name = uri.partition(";")[0] or environ.get("PMIX_NAMESPACE", "")
    port = port_of_job(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big"))
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
