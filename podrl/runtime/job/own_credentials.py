"""Certificates that the processes of a job make for themselves, from their common secret.

The secret gives all processes the same key of a certificate authority (CA), and each signs a certificate of its own
with it. The owner of such a certificate knows the secret, so an accepted certificate proves the same as
`podrl.runtime.job.wire` does. Nothing touches a disk: the files are in memory and end with the process.
"""

from collections.abc import Mapping
import contextlib
import datetime
import hashlib
import importlib
import os
from typing import Any

from podrl.mistakes import check
from podrl.runtime.job.mtls import (
    FILES,
    GIVEN,
    NONE,
    OWN,
    REQUIRED,
    Credentials,
    given_credentials,
    is_known_to_jax,
    is_required,
)

_URI = "spiffe://podrl.local/"  # Identifies processes, whatever their hosts are called.
_BEGIN, _END = datetime.datetime(2020, 1, 1), datetime.datetime(2120, 1, 1)  # The secret lasts as long as the job.
_SALT = b"podrl: the certificate authority of a job"
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def choose_kind(environ: Mapping[str, str]) -> str:
    """Returns the kind of credentials that this process can have.

    Raises:
        ConfigError: if the user names wrong ones, or requires mutual TLS where it is impossible.
    """
    kind = GIVEN if given_credentials(environ) else OWN if can_make() else NONE
    check(
        kind != NONE or not is_required(environ),
        f"{REQUIRED} asks for mutual TLS, but no certificates are named, and none can be made. Set "
        f"{', '.join(FILES.values())}, or install jax>=0.12, which needs Python 3.12, and podrl[tls].",
    )
    return kind


def make_credentials(kind: str, environ: Mapping[str, str], secret: bytes) -> Credentials | None:
    """Returns a process's credentials of the kind on which the job has agreed; None if it has none.

    Raises:
        ConfigError: if credentials are required but impossible, or the user's are wrong.
    """
    check(
        kind != NONE or not is_required(environ),
        f"{REQUIRED} asks for mutual TLS, but not all processes of this job can make certificates. Install the same "
        "everywhere: jax>=0.12, and podrl[tls].",
    )
    return {GIVEN: lambda: given_credentials(environ), OWN: lambda: make_own(secret)}.get(kind, lambda: None)()


def can_make() -> bool:
    """Returns whether this process can make a certificate of its own."""
    return is_known_to_jax() and _has_library() and _has_scrypt() and _has_files_in_memory()


def _has_library() -> bool:
    with contextlib.suppress(ImportError):
        importlib.import_module("cryptography.x509")
        return True
    return False


def _has_scrypt() -> bool:
    """Returns whether OpenSSL has scrypt and allows it, which it does not where only FIPS's algorithms are allowed."""
    with contextlib.suppress(AttributeError, ValueError):
        hashlib.scrypt(b"", salt=_SALT, n=2, r=1, p=1)
        return True
    return False


def _has_files_in_memory() -> bool:
    """Returns whether files in memory can be made and read here; a container may forbid them, or have no /proc."""
    with contextlib.suppress(AttributeError, OSError):
        path = _keep("trial", b"")
        try:
            with open(path, "rb"):
                return True
        finally:
            os.close(int(path.rpartition("/")[2]))
    return False


def make_own(secret: bytes) -> Credentials:
    """Makes a certificate for this process.

    Args:
        secret: The job's secret.
    """
    from cryptography.hazmat.primitives.asymmetric import ec

    # Slow on purpose: a certificate, which any client may ask for, must not help to guess a short secret.
    drawn = hashlib.scrypt(secret, salt=_SALT, n=2**14, r=8, p=1, dklen=48)
    authority = ec.derive_private_key(int.from_bytes(drawn, "big") % (_P256_ORDER - 1) + 1, ec.SECP256R1())
    key = ec.generate_private_key(ec.SECP256R1())
    return Credentials(
        kind=OWN,
        cert_file=_keep("certificate", _sign(key.public_key(), authority, is_authority=False)),
        key_file=_keep("key", _write_key(key)),
        ca_file=_keep("authority", _sign(authority.public_key(), authority, is_authority=True)),
        peer_uri_prefix=_URI,
    )


def _sign(public_key: Any, authority: Any, *, is_authority: bool) -> bytes:
    """Returns a certificate in PEM, of a process or of the authority itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    issuer = _name("authority")
    builder = (
        x509.CertificateBuilder()
        .subject_name(issuer if is_authority else _name("process"))
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_BEGIN)
        .not_valid_after(_END)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=0 if is_authority else None), critical=True)
    )
    if not is_authority:
        uri = x509.UniformResourceIdentifier(f"{_URI}process")
        builder = builder.add_extension(x509.SubjectAlternativeName([uri]), critical=False)
    return builder.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _name(text: str) -> Any:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"podrl {text}")])


def _write_key(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _keep(name: str, content: bytes) -> str:
    """Writes a file in memory and returns a path by which only this process can open it.

    The path does not use this process's number, which is another process's where /proc belongs to another namespace.
    """
    descriptor = os.memfd_create(f"podrl {name}")  # Open until the process ends: JAX reads it again now and then.
    os.write(descriptor, content)
    return f"/proc/self/fd/{descriptor}"
