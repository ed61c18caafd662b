"""Files that only their user may read: secrets and keys."""

import os
from pathlib import Path
import stat

from podrl.mistakes import ConfigError, check


def read_private(path: Path, source: str, what: str, remedy: str) -> bytes:
    """Returns a file's bytes, if only its owner may read it.

    Args:
        path: The file.
        source: What names it, for error messages.
        what: What it holds: `the job's secret`.
        remedy: The last sentence of errors.

    Raises:
        ConfigError: If it cannot be read, is no file, is another user's, or others may read it.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            check(stat.S_ISREG(status.st_mode), f"{source} is no file. {remedy}")
            check(
                not status.st_mode & 0o077 and status.st_uid in (os.geteuid(), 0),
                f"{source}: {what} is for its user alone, but this file has mode {status.st_mode & 0o777:o} and "
                f"belongs to user {status.st_uid}. Put a new one into a file of your own with mode 600.",
            )
            return file.read()
    except OSError as error:
        raise ConfigError(f"{source}: {what} cannot be read ({error.strerror}). {remedy}") from None


def _open_at_once(path: str, flags: int) -> int:
    """Opens a file without waiting, even a pipe that has no writer."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
