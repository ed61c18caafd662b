"""gRPC's two ends of an endpoint, over mutual TLS where it has certificates."""

from pathlib import Path
from typing import NamedTuple

import grpc

from podrl.config import programs
from podrl.config.config import check
from podrl.experience.remote.endpoint import Endpoint
from podrl.experience.remote.grpc_options import worker_options
from podrl.runtime.job.certificates import CertificateFiles, check_certificates
from podrl.runtime.job.worker_credentials import AUTHORITY, CERTIFICATE, KEY, PEER_NAME, find_made, read_pair

_NAMES = (CERTIFICATE, KEY, AUTHORITY)


class Certificates(NamedTuple):
    """One side's certificate, its key, and the CAs that it accepts, in PEM.

    `peer_name` is the name in the other side's certificate; empty for the host's in the address.
    """

    certificate: bytes
    key: bytes
    authority: bytes
    peer_name: str = ""


def make_channel(endpoint: Endpoint, longest_bytes: int) -> grpc.Channel:
    """Returns a channel to a learner's process, which may not be there yet.

    Args:
        endpoint: where it listens.
        longest_bytes: the longest message that it may send.

    Raises:
        ConfigError: if this side's certificates are of no use.
    """
    options = worker_options(longest_bytes)
    if not endpoint.certificates:
        return grpc.insecure_channel(endpoint.target, options)
    found = read_certificates(endpoint.certificates, of_server=False)
    if found.peer_name:
        options.append(("grpc.ssl_target_name_override", found.peer_name))
    credentials = grpc.ssl_channel_credentials(found.authority, found.key, found.certificate)
    return grpc.secure_channel(endpoint.target, credentials, options)


def listen(server: grpc.Server, endpoint: Endpoint) -> None:
    """Binds a server to its endpoint.

    Raises:
        ConfigError: if this side's certificates are of no use.
        RuntimeError: if the address is taken, or not of this host.
    """
    if not endpoint.certificates:
        server.add_insecure_port(endpoint.target)
        return
    found = read_certificates(endpoint.certificates, of_server=True)
    pair = [(found.key, found.certificate)]
    server.add_secure_port(
        endpoint.target, grpc.ssl_server_credentials(pair, found.authority, require_client_auth=True)
    )


def read_certificates(folder: str, *, of_server: bool) -> Certificates:
    """Returns what is in a folder: the user's own certificates, or those made for the job.

    Args:
        folder: `remote.certificates`, or `--worker_certificates`.
        of_server: Whether they are the learner's.

    Raises:
        ConfigError: if one cannot be read, they do not fit together, or are not valid now.
    """
    made, path = find_made(folder), Path(folder).expanduser()
    if made is not None:
        certificate, key = read_pair(made)
        return Certificates(certificate, key, certificate, PEER_NAME)
    contents = []
    for name in _NAMES:
        try:
            contents.append((path / name).read_bytes())
        except OSError as error:
            check(False, f"{path / name} cannot be read ({error.strerror}). {_expected(folder)}")
        check(b"-----BEGIN " in contents[-1], f"{path / name} is no PEM file. {_expected(folder)}")
    files = CertificateFiles(*(str(path / name) for name in _NAMES))
    check_certificates(files, files, of_server=of_server)
    certificate, key, authority = contents
    return Certificates(certificate, key, authority)


def _expected(folder: str) -> str:
    return (
        f"Expected {', '.join(_NAMES)} in {folder}: this side's certificate, its key, and the CA of both sides; or a "
        f"folder by {programs.program_of('make_job_credentials')}."
    )
