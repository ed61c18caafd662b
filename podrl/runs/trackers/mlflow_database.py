"""MLflow's local database, which is made completely or not at all.

MLflow makes its tables in many transactions, and cannot continue where the end of its process has interrupted them.
"""

import contextlib
import fcntl
import os
from pathlib import Path
import secrets
import sqlite3
import tempfile
import time

from absl import logging

_SCHEME = "sqlite:///"
_STILL_S = 3.0  # An unfinished database that stays as it is for so long is made by no process.
_POLL_S = 0.2


def prepare_database(uri: str) -> None:
    """Makes the database of a tracking URI if it is a file of SQLite that is not there.

    One that was left unfinished holds no runs. It is renamed to `NAME.unfinished`, and another is made in its place.

    Args:
        uri: MLflow's tracking URI.

    Raises:
        OSError: If it cannot be written.
    """
    path = _find_file(uri)
    if path is None:
        return
    _set_unfinished_aside(path)
    if not path.exists():
        _make(path)


def _find_file(uri: str) -> Path | None:
    """Returns the file of a database; None where it is a server, a folder or in memory."""
    name = uri.removeprefix(_SCHEME).partition("?")[0]
    return Path(name) if uri.startswith(_SCHEME) and name not in ("", ":memory:") else None


def _set_unfinished_aside(path: Path) -> None:
    while path.exists() and not _is_finished(path):
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # Of several exports one renames it.
            if not path.exists() or path.stat().st_ino != os.fstat(file.fileno()).st_ino or _is_changing(path):
                continue
            aside = path.with_name(f"{path.name}.unfinished")
            for ending in ("-journal", "-wal", "-shm"):
                path.with_name(path.name + ending).unlink(missing_ok=True)
            path.replace(aside)
        logging.warning(
            "%s was left unfinished by a process that ended while MLflow made it. It holds no runs, is now %s, and is "
            "made anew.",
            path,
            aside.name,
        )


def _is_finished(path: Path) -> bool:
    """Returns whether MLflow has made all of a database: what it adds last is its own experiment."""
    try:
        with contextlib.closing(sqlite3.connect(path)) as database:
            return bool(database.execute("SELECT 1 FROM experiments LIMIT 1").fetchall())
    except sqlite3.OperationalError as error:
        return "no such table" not in str(error)  # Another error is MLflow's to tell.
    except sqlite3.DatabaseError:  # It is no database.
        return True


def _is_changing(path: Path) -> bool:
    """Returns whether another process makes the database now; waits for a while."""
    before, end_s = _stamp(path), time.monotonic() + _STILL_S
    while time.monotonic() < end_s:
        time.sleep(_POLL_S)
        if _stamp(path) != before:
            return True
    return False


def _stamp(path: Path) -> list[tuple[int, int]]:
    files = [path.with_name(path.name + ending) for ending in ("", "-journal", "-wal")]
    return [(each.stat().st_mtime_ns, each.stat().st_size) if each.exists() else (0, 0) for each in files]


def _make(path: Path) -> None:
    """Lets MLflow make a database elsewhere, and puts a copy in its place unless another process was faster."""
    import mlflow

    with tempfile.TemporaryDirectory() as folder:
        made, copy = Path(folder) / "mlflow.db", path.with_name(f".{path.name}-{secrets.token_hex(4)}")
        mlflow.MlflowClient(f"{_SCHEME}{made}").get_experiment("0")
        try:
            with contextlib.closing(sqlite3.connect(made)) as source, contextlib.closing(sqlite3.connect(copy)) as to:
                source.backup(to)
            with contextlib.suppress(FileExistsError):
                os.link(copy, path)
        finally:
            copy.unlink(missing_ok=True)
