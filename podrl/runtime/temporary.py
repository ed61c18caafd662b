"""Temporary folders, and what to do where none can be made."""

from collections.abc import Iterator
import contextlib
import tempfile

from podrl.mistakes import ConfigError

REMEDY = "Set TMPDIR to a folder that this user can write to."


@contextlib.contextmanager
def temporary_folder(purpose: str) -> Iterator[str]:
    """Makes a folder, named after `purpose`, that exists as long as the context lasts.

    Raises:
        ConfigError: if none can be made.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix=f"podrl-{purpose}-")
    except OSError as error:
        raise ConfigError(f"No temporary folder can be made ({error.strerror or error}). {REMEDY}") from None
    with folder as path:
        yield path
