"""Where a learner's process listens for environment workers, and what keeps others out.

Unix sockets and addresses within the host need no encryption. Any other address is refused without certificates, with
which both sides use mutual TLS.
"""

import contextlib
import dataclasses
import socket

from podrl.config import programs
from podrl.config.config import check
from podrl.config.remote import NO_CERTIFICATES
from podrl.runtime.job.addresses import check_address, is_loopback, join_address, meeting_point, split_address

UNIX = "unix:"
_PROBE_S = 5.0
LONGEST_SOCKET = 100  # Bytes of a Unix socket's path; systems allow some 104.


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """An address and what is needed to use it.

    Attributes:
        address: `HOST:PORT` or `unix:PATH`.
        certificates: the folder of this side's certificates; empty for none.
    """

    address: str
    certificates: str = ""

    @property
    def is_local(self) -> bool:
        """Whether only this host reaches it."""
        return self.address.startswith(UNIX) or is_loopback(self.address)

    @property
    def target(self) -> str:
        """The address as gRPC takes it, of one name only: another user's program may listen at a second one."""
        return self.address if self.address.startswith(UNIX) else join_address(*meeting_point(self.address))

    def is_taken(self) -> bool:
        """Returns whether a program listens at this Unix socket; gRPC would take it over without a word."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(_PROBE_S)
            probe.connect(self.address.removeprefix(UNIX))
            return True
        return False


def make_endpoint(key: str, address: str, certificates: str, key_of_certificates: str) -> Endpoint:
    """Checks an address.

    Args:
        key: the config key or flag of the address.
        address: `HOST:PORT` or `unix:PATH`.
        certificates: a folder; `none` or empty for none.
        key_of_certificates: its config key or flag.

    Raises:
        ConfigError: if the address has another form, or would be open to other hosts.
    """
    endpoint = Endpoint(address, "" if certificates == NO_CERTIFICATES else certificates)
    if address.startswith(UNIX):
        path = address.removeprefix(UNIX)
        check(bool(path), f"{key}={address} names no socket. Use unix:PATH.")
        check(
            len(path.encode()) <= LONGEST_SOCKET,
            f"{key}={address}: the path of a Unix socket has at most {LONGEST_SOCKET} bytes. Choose a shorter one.",
        )
        return endpoint
    check_address(address, key)
    tool = f"{programs.typed_command('make_job_credentials')} --out FOLDER"
    check(
        endpoint.is_local or bool(endpoint.certificates),
        f"{key}={address} is open to other hosts, and workers are let in there only over TLS. Make "
        f"credentials by {tool}, give a copy to every host and name it in {key_of_certificates}; or use an "
        "address within this host: 127.0.0.1:PORT or unix:PATH.",
    )
    return endpoint


def address_of_process(address: str, process_index: int, num_processes: int) -> str:
    """Returns where one of several processes listens: the next port for each, or a socket with its number."""
    if num_processes == 1:
        return address
    if address.startswith(UNIX):
        return f"{address}.{process_index}"
    host, port = split_address(address)
    return join_address(host, port + process_index)
