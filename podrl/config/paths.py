"""Paths as users type them, made absolute at the start: an environment that changes the working folder moves no run.

Imports no JAX: a mistake in a path shows before anything is started.
"""

import os
from pathlib import Path
import stat

from etils import epath

from podrl.mistakes import check

# Orbax matches its own files by a pattern that contains the path, and tensorstore reads a backslash as a slash.
_UNSUITED = "*?[]\\"


def absolute(path: str) -> str:
    """Returns the absolute path with `~` expanded; that of an object store, such as `gs://bucket/a`, unchanged.

    Raises:
        ConfigError: if there is no such home folder.
    """
    if "://" in path:
        return path
    expanded = os.path.expanduser(path)
    check(not expanded.startswith("~"), f"{path}: there is no home folder {expanded.split('/')[0]}. Write it out.")
    return os.path.abspath(expanded)


def absolute_path(path: str) -> Path:
    """Returns `absolute(path)` as a `Path`, for files on this machine."""
    return Path(absolute(path))


def absolute_workdir(path: str) -> str:
    """Returns `absolute(path)` of a run's folder, checked by `check_workdir_path`."""
    workdir = absolute(path)
    check_workdir_path(workdir)
    return workdir


def check_workdir_path(path: str) -> None:
    """Checks that checkpoints can be read back from a folder of this name.

    Raises:
        ConfigError: if they could not; the message names the character.
    """
    found = [character for character in _UNSUITED if character in path]
    check(
        not found,
        f"--workdir={path} has {' '.join(found)} in its path. Checkpoints in such a folder cannot be read back: none "
        f"of {' '.join(_UNSUITED)} may be in it. Choose another name.",
    )
    check(not path.startswith("file://"), f"--workdir={path} must be the path of a folder: leave out file://.")
    check(_is_text(path), f"--workdir={path!a} has bytes in its path that are no text. Choose another name.")


def is_there(path: epath.PathLike) -> bool:
    """Returns whether anything exists at a path; unlike `exists`, it does not read an error as absence.

    Raises:
        OSError: if the system cannot say.
    """
    try:
        if "://" in os.fspath(path):
            epath.Path(path).stat()
        else:
            os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def size_bytes(path: epath.PathLike) -> int:
    """Returns the size of a file. Unlike `epath`'s `stat` it does not look up the owner's name, which may be unknown.

    Raises:
        OSError: if the system cannot say.
    """
    return epath.Path(path).stat().length if "://" in os.fspath(path) else os.stat(path).st_size


def is_folder(path: epath.PathLike) -> bool:
    """Returns whether there is a folder at a path.

    Raises:
        OSError: if the system cannot say.
    """
    if "://" in os.fspath(path):
        return epath.Path(path).is_dir()
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _is_text(path: str) -> bool:
    """Returns whether a path can be written as UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
