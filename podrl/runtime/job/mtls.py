"""Mutual TLS of JAX's coordination service: where the certificates come from, and how they are checked.

The user names certificates by the variables that JAX itself reads. Without them each process makes its own, where JAX
and the package `cryptography` allow it: the job's secret gives all processes the same certificate authority (CA), so
nothing has to be copied to other hosts.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import importlib.metadata
import os
import socket
import ssl
import stat
from typing import Any, NoReturn

from podrl.mistakes import ConfigError, check
from podrl.runtime.job.certificates import CertificateFiles, check_certificates, client_context, describe_reason

FILES = {
    "mtls_cert_file": "JAX_MTLS_CERT_FILE",
    "mtls_key_file": "JAX_MTLS_KEY_FILE",
    "mtls_ca_file": "JAX_MTLS_CA_FILE",
}
PREFIX = "JAX_MTLS_PEER_URI_PREFIX"
VARIABLES = (*FILES.values(), PREFIX)
REQUIRED = "JAX_DISTRIBUTED_VERIFY_SECURE_CREDENTIALS"
NONE, GIVEN, OWN = "none", "given", "own"  # Kinds of credentials that processes tell the coordinator.
_LIMIT_S = 15.0
_ALL_OF_THEM = ", ".join(FILES.values())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Credentials:
    """Certificates that a process presents, and those that it accepts.

    Attributes:
        kind: `GIVEN` by the user, or a process's `OWN`.
        cert_file: This process's certificate, and any between it and the CA.
        key_file: Its private key.
        ca_file: The CAs, one of which must have signed the others' certificates.
        peer_uri_prefix: If set, others are identified by a URI that begins with it, and the service not by its host
            name.
    """

    kind: str
    cert_file: str
    key_file: str
    ca_file: str
    peer_uri_prefix: str = ""

    @property
    def files(self) -> CertificateFiles:
        """The paths."""
        return CertificateFiles(self.cert_file, self.key_file, self.ca_file)

    def arguments(self) -> dict[str, str]:
        """Returns JAX's arguments."""
        files = {"mtls_cert_file": self.cert_file, "mtls_key_file": self.key_file, "mtls_ca_file": self.ca_file}
        return files | ({"mtls_peer_uri_prefix": self.peer_uri_prefix} if self.peer_uri_prefix else {})


def is_known_to_jax() -> bool:
    """Returns whether this JAX has mutual TLS, which came with 0.12."""
    major, minor = importlib.metadata.version("jax").split(".")[:2]
    return (int(major), int(minor)) >= (0, 12)


def given_credentials(environ: Mapping[str, str]) -> Credentials | None:
    """Returns the credentials that the user names; None if there are none.

    Raises:
        ConfigError: if this JAX has no mutual TLS, some are missing or cannot be read, or they do not fit together.
    """
    found = {argument: environ.get(name, "") for argument, name in FILES.items()}
    prefix = environ.get(PREFIX, "")
    named = [name for name in VARIABLES if environ.get(name)]
    if not named:
        return None
    missing = [FILES[argument] for argument, path in found.items() if not path]
    check(
        not missing,
        f"{', '.join(named)} {'is' if len(named) == 1 else 'are'} set, but not {' and '.join(missing)}. Mutual TLS "
        f"needs {_ALL_OF_THEM}, the paths of three files. Set all of them, or none.",
    )
    check(
        is_known_to_jax(),
        f"{named[0]} asks for mutual TLS, which jax {importlib.metadata.version('jax')} does not have. Install "
        f"jax>=0.12, which needs Python 3.12, or unset {', '.join(named)}.",
    )
    check(
        not prefix or prefix.endswith("/"),
        f"{PREFIX}={prefix} must end with '/', or it would fit other names that only begin like it.",
    )
    for argument, path in found.items():
        _check_readable(FILES[argument], path)
    credentials = Credentials(
        kind=GIVEN,
        cert_file=found["mtls_cert_file"],
        key_file=found["mtls_key_file"],
        ca_file=found["mtls_ca_file"],
        peer_uri_prefix=prefix,
    )
    _check_pair(credentials)
    return credentials


def agree(kinds: Sequence[str]) -> str:
    """Returns the kind of credentials that a job uses: one that all of its processes have."""
    return kinds[0] if len(set(kinds)) == 1 else NONE


def differ(index: int, kind: str, others: Mapping[int, str]) -> str:
    """Returns what is wrong if only some processes of a job have certificates of the user's; empty otherwise.

    Args:
        index: A process's number.
        kind: Its kind of credentials.
        others: Kinds of the processes that joined before it.
    """
    odd = [other for other, theirs in others.items() if (theirs == GIVEN) != (kind == GIVEN)]
    if not odd:
        return ""
    named, unnamed = (index, odd[0]) if kind == GIVEN else (odd[0], index)
    return (
        f"Process {named} of this job has certificates for mutual TLS, but process {unnamed} has none. Set "
        f"{_ALL_OF_THEM} for all processes, or for none."
    )


def is_required(environ: Mapping[str, str]) -> bool:
    """Returns whether the user refuses jobs without mutual TLS."""
    return environ.get(REQUIRED, "").lower() in ("1", "true", "t", "yes", "y", "on")


def check_service(credentials: Credentials, host: str, port: int) -> None:
    """Connects to JAX's service as its client will; the client would say later, and less clearly, what is wrong.

    Returns without a finding if the service does not answer in time: JAX's client waits longer.

    Raises:
        ConfigError: if one side does not accept the other's certificate.
    """
    service = f"JAX's service at {host}, port {port},"
    context = client_context(credentials.files)
    context.check_hostname = not credentials.peer_uri_prefix
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, port), timeout=_LIMIT_S) as connection,
            context.wrap_socket(connection, server_hostname=host) as secured,
        ):
            secured.settimeout(_LIMIT_S)
            names = _uris(secured.getpeercert())
            refused = not secured.recv(1)  # The service speaks first, once it has accepted the certificate.
    except ssl.SSLCertVerificationError as error:
        _refuse(credentials, f"the certificate of {service} is not accepted: {error.verify_message}")
    except ssl.SSLError as error:
        _refuse(credentials, f"{service} does not accept this certificate: {describe_reason(error)}")
    except (ConnectionResetError, BrokenPipeError) as error:
        _refuse(credentials, f"{service} ended the connection: {error.strerror or error}")
    except OSError:  # Lost, as the coordinator's connection shows, or late, as on a busy host: no mistake.
        return
    if refused:
        _refuse(credentials, f"{service} does not accept this certificate, and does not say why")
    prefix = credentials.peer_uri_prefix
    if prefix and not any(name.startswith(prefix) for name in names):
        _refuse(credentials, f"{service} is {', '.join(names) or 'no URI'}, not {PREFIX}={prefix}")


def _uris(certificate: Mapping[str, Any] | None) -> list[str]:
    return [name for kind, name in (certificate or {}).get("subjectAltName", ()) if kind == "URI"]


def _refuse(credentials: Credentials, why: str) -> NoReturn:
    remedy = (
        f"All processes need certificates of a CA in {FILES['mtls_ca_file']}={credentials.ca_file}; this one shows "
        f"{credentials.cert_file}."
        if credentials.kind == GIVEN
        else "Certificates of a job's own are valid from 2020 on. Check the hosts' clocks, and their versions of podrl."
    )
    raise ConfigError(f"{why[:1].upper()}{why[1:]}. {remedy}")


def _check_readable(name: str, path: str) -> None:
    try:  # A pipe could be read only once, and a reader might wait for it.
        check(stat.S_ISREG(os.stat(path).st_mode), f"{name}={path} is no file. Mutual TLS reads it now and then.")
        with open(path, "rb") as file:
            check(b"-----BEGIN " in file.read(), f"{name}={path} is no PEM file: it has no line -----BEGIN ...-----.")
    except OSError as error:
        raise ConfigError(
            f"{name}={path} cannot be read ({error.strerror}). It must be a file on every host."
        ) from None


def _check_pair(credentials: Credentials) -> None:
    """Raises `ConfigError` unless the key fits the certificate and the process's own CA accepts it now."""
    files = credentials.files
    check_certificates(files, CertificateFiles(*map("=".join, zip(FILES.values(), files, strict=True))))
