"""The secret by which the processes of one job know each other, and where a process finds it.

A launcher makes a secret for every start. The user gives the same secret to all processes that are started by hand; on
a single host they need none, as each finds the same file in its user's home.
"""

from collections.abc import MutableMapping
import contextlib
import os
from pathlib import Path
import secrets
import tempfile

from podrl.config.config import ConfigError, check
from podrl.runtime.job.private_files import read_private

VARIABLE = "PODRL_JOB_SECRET"
FILE_VARIABLE = "PODRL_JOB_SECRET_FILE"
SHORTEST = 16  # Characters. A shorter one could be guessed from a proof that was overheard.
MAKE = "python -c 'import secrets; print(secrets.token_hex(32))'"
EXPORT = f'export {VARIABLE}="$({MAKE})"'  # For a shell that starts processes by hand.
_NAME_ONE = f"Name a file of yours with mode 600 that holds the job's secret, or give {VARIABLE}; make one by {MAKE}"
_BYTES = 32
_USERS_FILE = ".podrl/secret"  # In the user's home.


def make_secret() -> str:
    """Returns a new secret."""
    return secrets.token_hex(_BYTES)


def take_secret(environ: MutableMapping[str, str], address: str, *, loopback: bool, home: Path | None = None) -> bytes:
    """Returns the job's secret as this process receives it.

    Args:
        environ: the process's environment variables; the secret is removed, so that environments and other child
            processes do not inherit it.
        address: where the processes meet, for error messages.
        loopback: whether that is an address within this host.
        home: the user's home folder; found automatically by default.

    Raises:
        ConfigError: if there is no secret, it is too short, or others may read its file.
    """
    given, path = environ.pop(VARIABLE, "").strip(), environ.get(FILE_VARIABLE, "")
    if given:
        return _checked(given, VARIABLE)
    if path:
        source = f"{FILE_VARIABLE}={path}"
        return read_secret_file(_expanded(path, source), source)
    check(
        loopback,
        f"The processes of this job are to meet at {address}, which other hosts reach, and this one was given no "
        f"secret by which they know each other. Give all of them the same one: {VARIABLE}, made once by {MAKE}, or "
        f"{FILE_VARIABLE}, the path of a file with mode 600 that holds it.",
    )
    file = (home or _home()) / _USERS_FILE
    _create(file)
    return read_secret_file(file, str(file))


def read_secret_file(path: Path, source: str) -> bytes:
    """Returns the secret in a file that only its user may read; `source` names it in error messages.

    Raises:
        ConfigError: if there is none, it is too short, or others may read it.
    """
    try:
        text = read_private(path, source, "the job's secret", _NAME_ONE).decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{source}: the job's secret is no text. Make one by {MAKE}") from None
    return _checked(text.strip(), source)


def _checked(text: str, source: str) -> bytes:
    """Returns the secret as bytes, after a check that it is long enough and fits into a variable."""
    check("\0" not in text, f"{source}: a job's secret has no NUL characters. Make one by {MAKE}")
    check(
        len(text) >= SHORTEST,
        f"{source}: a job's secret of {len(text)} characters can be guessed; at least {SHORTEST} are expected. "
        f"Make one by {MAKE}",
    )
    return os.fsencode(text)


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        raise ConfigError(f"This user has no home folder to keep a job's secret in. Set {VARIABLE}; {MAKE}") from None


def _expanded(path: str, source: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(f"{source}: there is no such user. {_NAME_ONE}") from None


def _create(path: Path) -> None:
    """Makes a file with a new secret, completely and once, even if several processes do so at the same time."""
    if path.exists():
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, new = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # With mode 600.
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(make_secret() + "\n")
            with contextlib.suppress(FileExistsError):
                os.link(new, path)
        finally:
            os.unlink(new)
    except OSError as error:
        raise ConfigError(
            f"{path}, where processes on one host find their job's secret, cannot be made ({error.strerror}). Give all "
            f"of them the same {VARIABLE} instead, made once by {MAKE}"
        ) from None
