"""How a process joins a job: it finds the job's secret, meets the other processes, and gets JAX's client."""

from collections.abc import Mapping, MutableMapping
import contextlib
import os
import subprocess
from typing import TYPE_CHECKING

from absl import logging
import jax

from podrl.config.config import MISTAKE, ConfigError
from podrl.runtime.job.addresses import is_loopback, join_address, meeting_point
from podrl.runtime.job.connection import Connection
from podrl.runtime.job.coordinator_start import start_coordinator
from podrl.runtime.job.job import JAX_CONNECT_S, Job
from podrl.runtime.job.local_gpus import share_gpus
from podrl.runtime.job.membership import Membership
from podrl.runtime.job.mtls import check_service
from podrl.runtime.job.own_credentials import choose_kind, make_credentials
from podrl.runtime.job.reachability import meet_in_pairs
from podrl.runtime.job.secret import VARIABLE, take_secret
from podrl.runtime.job.time_limits import HEARTBEAT_S
from podrl.runtime.proxies import without_proxies
from podrl.runtime.stop_signals import INTERRUPTED
from podrl.runtime.watchdog import STALLED

if TYPE_CHECKING:
    from podrl.runtime.job.jax_service import Client

_COORDINATOR_S = 10.0  # For the coordinator to tell the others that some are missing, and to end.


def join(membership: Membership, timeout_s: float, environ: MutableMapping[str, str]) -> Job:
    """Joins the processes of a job; call it before JAX looks for devices.

    Args:
        membership: result of `find_membership`.
        timeout_s: seconds to wait for the others.
        environ: environment variables in which one of several processes finds the job's secret, which is removed.

    Raises:
        TimeoutError: if not all processes join in time, or some do not reach each other; the message names them.
        ConfigError: if the coordinator's port is taken, this process does not fit into the job, it has no secret of
            the job, its certificates are wrong, or this JAX differs from what podrl expects.
        RuntimeError: if JAX has looked for devices already, the coordinator has ended, JAX's service does not start, or
            this process cannot listen.
    """
    if (gpus := share_gpus(environ, membership)) is not None:
        jax.config.update("jax_cuda_visible_devices", ",".join(map(str, gpus)))
    if membership.process_count == 1:
        environ.pop(VARIABLE, None)
        return Job(membership, (membership.host,))
    from podrl.runtime.job import jax_service

    jax_service.check_names()
    if jax_service.has_backends():
        raise RuntimeError("Processes must join before JAX looks for devices.")
    address = membership.coordinator or ""
    secret = take_secret(environ, address, loopback=is_loopback(address))
    tls = choose_kind(environ)
    coordinator = start_coordinator(membership, secret) if membership.process_index == 0 else None
    try:
        ended = coordinator.poll if coordinator is not None else lambda: None
        connection = Connection(membership, timeout_s, secret, ended, tls)
    except BaseException as error:
        if coordinator is not None:
            if isinstance(error, TimeoutError):  # It is telling the others, and ends by itself.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    coordinator.wait(timeout=_COORDINATOR_S)
            coordinator.kill()
            coordinator.wait()
        raise
    with without_proxies(os.environ):
        client = _make_client(membership, connection, environ, secret)
        job = Job(membership, connection.hosts, connection=connection, client=client, coordinator=coordinator)
        job.connect()
    client.give_to_jax(address, membership.process_index, membership.process_count)
    try:
        _connect_in_pairs(job, client, connection.own_address, secret, timeout_s)
    except BaseException as error:  # Includes Ctrl-C: the caller does not have the job yet.
        codes = {ConfigError: MISTAKE, TimeoutError: STALLED, KeyboardInterrupt: INTERRUPTED}
        job.fail(str(error) or type(error).__name__, codes.get(type(error), 1))
        raise
    return job


def _make_client(membership: Membership, connection: Connection, environ: Mapping[str, str], secret: bytes) -> "Client":
    """Makes JAX's client, after a check that client and service accept each other's credentials."""
    from podrl.runtime.job.jax_service import Client

    host, port = meeting_point(membership.coordinator or "")
    try:
        credentials = make_credentials(connection.tls, environ, secret)
        if credentials is not None:
            check_service(credentials, host, port)
            if membership.process_index == 0:
                logging.info("JAX's coordination service uses mutual TLS (%s certificates).", credentials.kind)
        mtls = credentials.arguments() if credentials is not None else {}
        index = membership.process_index
        return Client(join_address(host, port), index, connect_s=JAX_CONNECT_S, beat_s=HEARTBEAT_S, mtls=mtls)
    except ConfigError as error:
        connection.say(fail=str(error), exit_code=MISTAKE)
        raise


def _connect_in_pairs(job: Job, client: "Client", own_address: str, secret: bytes, timeout_s: float) -> None:
    """Makes the CPUs' collectives listen where the others reach this process, and checks that they do."""
    address, unreached = meet_in_pairs(job, own_address, secret, timeout_s)
    by_gloo = jax.config.values["jax_cpu_collectives_implementation"] == "gloo"
    if by_gloo:
        client.listen_with_gloo(address)
    if unreached and by_gloo and jax.default_backend() == "cpu":
        raise TimeoutError(unreached)
    if unreached and job.process_index == 0:  # Other collectives may use another network.
        logging.warning("%s This job continues, as its devices connect in a way of their own.", unreached)
