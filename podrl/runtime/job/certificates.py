"""Whether certificates are of use before anything is connected: both sides of TLS in memory.

gRPC, which carries them later, only says that it does not connect.
"""

import ssl
from typing import NamedTuple

from podrl.mistakes import ConfigError

_REMEDY = "Give a certificate that this CA has signed and that is valid now."


class CertificateFiles(NamedTuple):
    """Paths of one side's files: its certificate, the certificate's key, and the CAs that it accepts."""

    certificate: str
    key: str
    authority: str


def client_context(files: CertificateFiles) -> ssl.SSLContext:
    """Returns a client's context with these files."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(files.certificate, files.key, password=_no_password)
    _trust(context, files)
    return context


def check_certificates(
    files: CertificateFiles, names: CertificateFiles, *, of_server: bool = False, remedy: str = _REMEDY
) -> None:
    """Raises `ConfigError` unless the key fits the certificate and the side's own CA accepts it now.

    Args:
        files: The side's files.
        names: What messages call them.
        of_server: Whether it is a server's certificate; a client's by default.
        remedy: What to do about a certificate that is not accepted.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        client = client_context(files)
        server.load_cert_chain(files.certificate, files.key, password=_no_password)
    except ssl.SSLError as error:
        found = f"{names.certificate}, {names.key} and {names.authority}"
        raise ConfigError(f"{found} are no certificate, its key and a CA: {describe_reason(error)}.") from None
    client.check_hostname, client.verify_mode = False, ssl.CERT_REQUIRED if of_server else ssl.CERT_NONE
    if not of_server:
        _trust(server, files)
        server.verify_mode = ssl.CERT_REQUIRED
    try:
        _shake_hands(client, server)
    except ssl.SSLCertVerificationError as error:
        raise ConfigError(
            f"{names.certificate} is not accepted by {names.authority}: {error.verify_message}. {remedy}"
        ) from None
    except ssl.SSLError as error:
        why = describe_reason(error)
        raise ConfigError(f"{names.certificate} cannot be used with {names.authority}: {why}.") from None


def describe_reason(error: ssl.SSLError) -> str:
    """Returns OpenSSL's reason in words: `tlsv1 alert unknown ca`."""
    return (error.reason or str(error)).lower().replace("_", " ")


def _trust(context: ssl.SSLContext, files: CertificateFiles) -> None:
    """Makes a side accept certificates of each CA in the file, a root or not, as gRPC does."""
    context.load_verify_locations(files.authority)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN


def _no_password() -> str:
    """Returns a password that opens no key; without it OpenSSL would ask for one on the terminal."""
    return ""


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    """Connects both sides in memory; raises `SSLError` if one does not accept the other."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)]
    for _ in range(4):  # The last flight of TLS 1.3 is the client's certificate.
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
