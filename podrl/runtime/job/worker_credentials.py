"""A certificate, its key and a secret that are made for one job: what its workers on other hosts need.

Every side has a copy of the same folder, shows its certificate, and accepts that one certificate alone. So there is no
CA, and no host's name is compared: a process with the folder is of the job, at any address. Imports no JAX.
"""

import contextlib
import datetime
import os
from pathlib import Path
import shutil
import stat
import tempfile
from typing import Any

from podrl.config import programs
from podrl.config.extras import install_command
from podrl.mistakes import ConfigError, check
from podrl.runtime.job.certificates import CertificateFiles, check_certificates
from podrl.runtime.job.private_files import read_private
from podrl.runtime.job.secret import make_secret

CERTIFICATE, KEY, AUTHORITY, SECRET = "cert.pem", "key.pem", "ca.pem", "secret"
PEER_NAME = "job.podrl.invalid"  # The name in the certificate, which no host has.
DAYS = 365
_BEFORE_DAYS = 2  # So far back it is valid: hosts' clocks differ.


def make_job_credentials(folder: Path, *, days: float = DAYS, now: datetime.datetime | None = None) -> None:
    """Makes the folder, with mode 700, and files of mode 600 in it: all of them or none.

    Args:
        folder: must not exist, or be empty.
        days: how long the certificate is valid.
        now: the time in UTC; by this host's clock by default.

    Raises:
        ConfigError: if the folder has files or cannot be made, or the package `cryptography` is missing.
    """
    certificate, key = _make_pair(days, now or datetime.datetime.now(datetime.UTC))
    contents = {CERTIFICATE: certificate, KEY: key, SECRET: f"{make_secret()}\n".encode()}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-")  # With mode 700.
        try:
            for name, content in contents.items():
                descriptor = os.open(Path(new) / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
            os.rename(new, folder)
        finally:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(new)
    except OSError as error:
        raise ConfigError(
            f"{folder}: the credentials of a job cannot be put there ({error.strerror}). Name a folder that does not "
            "exist: each job has its own."
        ) from None


def find_made(folder: str) -> Path | None:
    """Returns a folder that `make_job_credentials` has made; None if it has the user's own certificates.

    Raises:
        ConfigError: if it cannot be entered.
    """
    try:
        path = Path(folder).expanduser()
        names = set(os.listdir(path))
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"The certificates' folder {folder} cannot be read ({getattr(error, 'strerror', None) or error}). Name one "
            "that this user can read, in remote.certificates or --worker_certificates."
        ) from None
    return path if SECRET in names and AUTHORITY not in names else None


def read_pair(folder: Path) -> tuple[bytes, bytes]:
    """Returns the certificate and the key of a folder by `make_job_credentials`.

    Raises:
        ConfigError: if they cannot be read, others may read or change them, or they are not valid now.
    """
    tool = programs.typed_command("make_job_credentials")
    remedy = f"Make a new folder by {tool} --out FOLDER, and give a copy to every host."
    path, status = folder / CERTIFICATE, folder.stat()
    check(
        not status.st_mode & 0o022 and status.st_uid in (os.geteuid(), 0),
        f"{folder}: the credentials of a job are for its user alone, but others may write to this folder: it has mode "
        f"{stat.S_IMODE(status.st_mode):o} and belongs to user {status.st_uid}. {remedy}",
    )
    certificate = read_private(path, str(path), "the job's certificate", remedy)
    key = read_private(folder / KEY, str(folder / KEY), "the job's key", remedy)
    files = CertificateFiles(str(path), str(folder / KEY), str(path))
    check_certificates(files, files._replace(authority="this host"), remedy=f"Is its clock right? If so: {remedy}")
    return certificate, key


def _make_pair(days: float, now: datetime.datetime) -> tuple[bytes, bytes]:
    """Returns a certificate that is its own CA, and its key, both in PEM."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise ConfigError(
            f"The credentials of a job are made by the package cryptography: {install_command('workers')}."
        ) from None
    key: Any = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, PEER_NAME)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=_BEFORE_DAYS))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(PEER_NAME)]), critical=False)
    )
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    return certificate, key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
