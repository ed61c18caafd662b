"""MLflow's local database, which is made completely or not at all.

MLflow makes its tables in many transactions, and cannot continue where the end of its process has interrupted them.
"""

from collections.abc import Set
import contextlib
import fcntl
import itertools
import os
from pathlib import Path
import secrets
import sqlite3
import tempfile
import time
from typing import Any

from absl import logging

from podrl.config.config import check

_SCHEME = "sqlite:///"
_STILL_S = 3.0  # An unfinished database that stays as it is for so long is made by no process.
_POLL_S = 0.2
_WHILE_CHANGED = "_alembic_tmp_"  # Begins the names of tables that are there while MLflow changes others.


def prepare_database(uri: str) -> None:
    """Makes the database of a tracking URI if it is a file of SQLite that is not there.

    One that was left unfinished holds no runs. It is renamed to `NAME.unfinished`, and another is made in its place.

    Args:
        uri: MLflow's tracking URI.

    Raises:
        ConfigError: If it is the database of another program.
        OSError: If it cannot be written.
    """
    import mlflow

    path = _find_file(uri)
    if path is None or (path.exists() and _is_finished(path)):
        return
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "mlflow.db"
        mlflow.MlflowClient(f"{_SCHEME}{made}").get_experiment("0")
        _set_unfinished_aside(path, _tables(made))
        _put(made, path)


def _find_file(uri: str) -> Path | None:
    """Returns the file of a database; None where it is a server, a folder or in memory."""
    name = uri.removeprefix(_SCHEME).partition("?")[0]
    return Path(name) if uri.startswith(_SCHEME) and name not in ("", ":memory:") else None


def _set_unfinished_aside(path: Path, known: Set[str]) -> None:
    """Renames an unfinished database.

    Args:
        path: Where it may be.
        known: All tables that MLflow makes.
    """
    while path.exists() and not _is_finished(path):
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # Of several exports one renames it.
            if not path.exists() or path.stat().st_ino != os.fstat(file.fileno()).st_ino or _is_changing(path):
                continue
            others = sorted(name for name in _tables(path) - known if not name.startswith(_WHILE_CHANGED))
            check(
                not others,
                f"MLflow cannot be written: {path} is another program's database, as it has the table "
                f"{', '.join(others[:1])}. Look at MLFLOW_TRACKING_URI.",
            )
            aside = _rename(path)
        logging.warning(
            "%s was left unfinished by a process that ended while MLflow made it. It holds no runs, is now %s, and is "
            "made anew.",
            path,
            aside.name,
        )


def _rename(path: Path) -> Path:
    """Renames a database to the first `NAME.unfinished`, `NAME.unfinished-2`, ... that is free, and returns that."""
    names = itertools.chain(["unfinished"], (f"unfinished-{number}" for number in itertools.count(2)))
    choices = (path.with_name(f"{path.name}.{name}") for name in names)
    aside = next(each for each in choices if not any(file.exists() for file in _files(each)))
    for source, target in reversed(list(zip(_files(path), _files(aside), strict=True))):
        if source.exists():  # Its journal goes first: another database of this name would be undone by it.
            source.rename(target)
    return aside


def _files(path: Path) -> list[Path]:
    """Returns a database's own file, and those that SQLite may have beside it."""
    return [path.with_name(path.name + ending) for ending in ("", "-journal", "-wal", "-shm")]


def _is_finished(path: Path) -> bool:
    """Returns whether MLflow has made all of a database: what it adds last is its own experiment."""
    try:
        return bool(_select(path, "SELECT 1 FROM experiments LIMIT 1"))
    except sqlite3.OperationalError as error:
        return "no such table" not in str(error)  # Another error is MLflow's to tell.
    except sqlite3.DatabaseError:  # It is no database.
        return True


def _tables(path: Path) -> set[str]:
    rows = _select(path, "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')")
    return {name for (name,) in rows if not name.startswith("sqlite_")}


def _select(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Returns the rows of a query; the database stays as it is, unless its program ended amid a transaction."""

    def select(mode: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True)) as database:
            return database.execute(query).fetchall()

    try:
        return select("ro")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname != "SQLITE_READONLY_ROLLBACK":
            raise
    return select("rw")  # Undoes the transaction first, as its own program would.


def _is_changing(path: Path) -> bool:
    """Returns whether another process makes the database now; waits for a while."""
    before, end_s = _stamp(path), time.monotonic() + _STILL_S
    while time.monotonic() < end_s:
        time.sleep(_POLL_S)
        if _stamp(path) != before:
            return True
    return False


def _stamp(path: Path) -> list[tuple[int, int]]:
    files = _files(path)[:-1]
    return [(each.stat().st_mtime_ns, each.stat().st_size) if each.exists() else (0, 0) for each in files]


def _put(made: Path, path: Path) -> None:
    """Puts a copy of a database in its place unless another process was faster."""
    copy = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        with contextlib.closing(sqlite3.connect(made)) as source, contextlib.closing(sqlite3.connect(copy)) as to:
            source.backup(to)
        try:
            os.link(copy, path)
        except FileExistsError:
            pass
        except OSError:  # Not every file system has hard links.
            if not path.exists():
                copy.rename(path)
    finally:
        copy.unlink(missing_ok=True)
