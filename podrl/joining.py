"""How a process becomes part of a job: it finds the job's secret, meets the others, and gets JAX's client."""

from collections.abc import MutableMapping
import contextlib
import os
import subprocess

import jax
from jax._src import distributed, xla_bridge
from jax._src.lib import _jax

from podrl.addresses import is_loopback, join_address, meeting_point
from podrl.coordinator import BEAT_S
from podrl.coordinator_start import start_coordinator
from podrl.distributed import CONNECT_S, Job
from podrl.meeting import Line
from podrl.membership import Membership
from podrl.proxies import without_proxies
from podrl.secret import VARIABLE, take_secret

_COORDINATOR_S = 10.0  # For the coordinator to tell the others that not all came, and to end.


def join(membership: Membership, timeout_s: float, environ: MutableMapping[str, str]) -> Job:
    """Brings the processes of a job together; to be called before JAX looks for devices.

    Args:
        membership: from `find_membership`.
        timeout_s: how long to wait for the others.
        environ: where a process of several finds the job's secret, which is taken out.

    Raises:
        TimeoutError: if not all come in time; names the missing.
        ConfigError: if the coordinator's port is taken, this process does not fit into the job, or it has no
            secret of the job.
        RuntimeError: if JAX has devices already, the coordinator has ended, or JAX's service does not start.
    """
    if membership.local_devices is not None:
        jax.config.update("jax_cuda_visible_devices", ",".join(map(str, membership.local_devices)))
    if membership.process_count == 1:
        environ.pop(VARIABLE, None)
        return Job(membership, (membership.host,))
    if xla_bridge.backends_are_initialized():
        raise RuntimeError("Processes must join before JAX looks for devices.")
    address = membership.coordinator or ""
    secret = take_secret(environ, address, loopback=is_loopback(address))
    coordinator = start_coordinator(membership, secret) if membership.process_index == 0 else None
    try:
        line = Line(membership, timeout_s, secret, coordinator.poll if coordinator is not None else lambda: None)
    except BaseException as error:
        if coordinator is not None:
            if isinstance(error, TimeoutError):  # It is telling the others, and ends by itself.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    coordinator.wait(timeout=_COORDINATOR_S)
            coordinator.kill()
            coordinator.wait()
        raise
    with without_proxies(os.environ):
        client = _jax.get_distributed_runtime_client(
            join_address(*meeting_point(address)),
            membership.process_index,
            init_timeout=CONNECT_S,
            shutdown_timeout=5,
            heartbeat_timeout=BEAT_S,
            shutdown_on_destruction=False,
            use_compression=True,
        )
        job = Job(membership, line.hosts, line=line, client=client, coordinator=coordinator)
        job.connect()
    # What `jax.distributed.initialize` would set. That would run the service in process 0, whose loss would then abort
    # the others, and take SIGTERM away from `podrl.interruption`.
    state = distributed.global_state
    state.process_id, state.num_processes = membership.process_index, membership.process_count
    state.coordinator_address, state.client = membership.coordinator, client
    return job
