"""Starts the coordinator, for process 0: see `coordinator`."""

import errno
import json
import os
import socket
import subprocess
import sys
import time

from podrl.config.config import ConfigError
from podrl.config.programs import ROOT
from podrl.runtime.job.addresses import is_loopback, join_address, meeting_point
from podrl.runtime.job.membership import Membership
from podrl.runtime.job.secret import VARIABLE
from podrl.runtime.stop_signals import held_back
from podrl.runtime.waiting import Patience

_PORT_S = 15.0  # A job that has just ended frees its port within this time.
_RETRY_S = 0.25


def start_coordinator(membership: Membership, secret: bytes) -> subprocess.Popen[bytes]:
    """Starts the coordinator as a separate process, which outlives this one until the others have left.

    Args:
        membership: the place of process 0.
        secret: the job's secret.

    Raises:
        ConfigError: if its port is taken.
    """
    address = membership.coordinator or ""
    host, port = _here(address)
    listener = _listen(host if is_loopback(address) else "", port)
    options = {
        "listener": listener.fileno(),
        "service_address": join_address(*listener.getsockname()[:2]),
        "count": membership.process_count,
        "job": membership.job,
        "parent": os.getpid(),
    }
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    try:
        with held_back():
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "podrl.runtime.job.coordinator_process", json.dumps(options)],
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": path, VARIABLE: os.fsdecode(secret)},
            )
    finally:
        listener.close()


def _here(address: str) -> tuple[str, int]:
    try:
        return meeting_point(address)
    except OSError as error:
        raise ConfigError(
            f"--coordinator={address}, where the processes of this job are to meet: {error.strerror}."
        ) from None


def _listen(host: str, port: int) -> socket.socket:
    """Listens at the port that JAX's service uses later; the service alone would share it with another job."""
    patience = Patience(_PORT_S)
    while True:
        try:
            if host or not socket.has_dualstack_ipv6():
                address = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM)[0]
                return socket.create_server(address[4][:2], family=address[0], backlog=1024)
            return socket.create_server(("", port), family=socket.AF_INET6, backlog=1024, dualstack_ipv6=True)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not patience.left_s():
                reason = f"fails: {error}"
                if error.errno == errno.EADDRINUSE:
                    reason = (
                        "is in use by another program, or by a job that ended less than 10 minutes ago, one of whose "
                        "processes has not left yet"
                    )
                raise ConfigError(
                    f"Port {port} on this host, where the processes of this job are to meet, {reason}. "
                    "Choose another port: --coordinator=HOST:PORT, the same for all processes."
                ) from None
        time.sleep(_RETRY_S)
