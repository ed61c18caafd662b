"""Keeps two runs out of one folder, and notices when the folder is moved, deleted or taken while its run trains.

A lock on `.lock` ends with its process, however that ends. But some file systems have no locks, and some keep them
within each host. So there is a heartbeat as well (`podrl.runs.heartbeat`). The heartbeat of a process that has ended
does not block others: it is ignored at once if the end can be seen, as on the same host, and otherwise when it has not
been touched for a while.
"""

from collections.abc import Callable, Iterator
import contextlib
import errno
import fcntl
import os
from pathlib import Path
import time
from types import TracebackType

from absl import logging
from etils import epath

from podrl.mistakes import ConfigError
from podrl.runs import heartbeat
from podrl.runs.heartbeat import BEAT_S, GONE_S, OPEN_FLAGS, WATCH_S, Heartbeat, Sighting
from podrl.runtime.interruption import leave
from podrl.runtime.process_identity import has_ended, name_boot
from podrl.runtime.waiting import Patience

LOCK = ".lock"
_LOOK_S = 0.5  # Between two looks at another's heartbeat.
_PURPOSE = "which keeps two runs out of one folder"


class FolderLostError(RuntimeError):
    """The folder no longer belongs to this run: it was moved, deleted, or taken by another run."""


@contextlib.contextmanager
def sole_user(workdir: epath.Path) -> Iterator[None]:
    """Holds a folder as long as the context lasts.

    Raises:
        ConfigError: if another process has it, or the guard's files cannot be made.
    """
    with FolderGuard() as guard:
        guard.take(workdir)
        yield


class FolderGuard:
    """Holds a folder, and releases it at the end of the context. Object stores are not guarded."""

    def __init__(self, stop_code: Callable[[], int] = lambda: 0) -> None:
        """Prepares the guard; `take` takes a folder.

        Args:
            stop_code: asked during waits; a code other than 0 ends the process with it.
        """
        self._stop_code = stop_code
        self._resources = contextlib.ExitStack()
        self._heartbeat: Heartbeat | None = None

    def __enter__(self) -> "FolderGuard":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Releases the folder.

        Raises:
            FolderLostError: if the folder is lost; it replaces an error that this caused, such as that of a running
                save.
        """
        try:
            if error is None or (isinstance(error, Exception) and not isinstance(error, ConfigError)):
                self.check()
        except FolderLostError as lost:
            if not isinstance(error, FolderLostError):
                raise lost from error
        finally:
            self._resources.close()

    def take(self, workdir: epath.Path) -> None:
        """Takes a folder, after a wait if only time can tell whether another process still has it.

        Raises:
            ConfigError: if another process has it, or the guard's files cannot be made.
        """
        if "://" in str(workdir):
            return
        folder = Path(workdir)
        lock = _open_lock(folder / LOCK)
        self._resources.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = _name_lock(lock)
        except BlockingIOError:
            raise _in_use(folder, _see(folder)) from None
        except OSError as error:
            held = ""
            logging.warning(
                "%s is on a file system without locks (flock: %s). %s alone keeps other runs out, a file that is "
                "touched every %.0f s: after a crash a start on another host waits up to %.0f s.",
                folder,
                error.strerror,
                heartbeat.NAME,
                BEAT_S,
                GONE_S,
            )
        while self._heartbeat is None:
            seen = _see(folder)
            # The owner of a heartbeat whose lock this process now holds has ended.
            if seen is not None and not (held and seen.owner.get("lock") == held):
                self._await_end(folder, seen, lock)
            with contextlib.suppress(FileExistsError), _named_failures(folder / heartbeat.NAME):
                if seen is not None:
                    heartbeat.remove(folder, seen)
                self._heartbeat = Heartbeat(folder, held)
        self._resources.callback(self._heartbeat.close)

    def check_news(self) -> None:
        """Raises `FolderLostError` if the folder was seen to be lost, which is checked every few seconds."""
        if self._heartbeat is None:
            return
        if self._heartbeat.stood_still():
            self._heartbeat.find_loss()
        if self._heartbeat.lost:
            raise FolderLostError(self._heartbeat.lost)

    def check(self) -> None:
        """Checks that this process still has the folder.

        Raises:
            FolderLostError: if it does not; the message says why and what to do.
        """
        if self._heartbeat is not None:
            self._heartbeat.find_loss()
        self.check_news()

    def _await_end(self, folder: Path, seen: Sighting, lock: int) -> None:
        """Returns when the owner of a heartbeat has ended, as far as that can be known.

        Raises:
            ConfigError: if it has not.
        """
        ended = has_ended(seen.owner)
        if ended is False:
            raise _in_use(folder, seen)
        if ended:
            return
        age_s = _age_s(seen, lock)
        left_s = max(GONE_S - age_s, WATCH_S)
        logging.warning(
            "%s was in use %.0f s ago (%s). Waiting up to %.0f s to see whether it still is.",
            folder,
            age_s,
            seen,
            left_s,
        )
        patience = Patience(left_s)
        while patience.left_s():
            time.sleep(_LOOK_S)
            if code := self._stop_code():
                leave(code)
            if (now := _see(folder)) is None:
                return
            if now != seen:
                raise _in_use(folder, now)
        logging.warning("%s is taken over: %s has ended, or its host is away.", folder, seen)


def _see(folder: Path) -> Sighting | None:
    with _named_failures(folder / heartbeat.NAME):
        return heartbeat.see(folder)


def _name_lock(lock: int) -> str:
    """Returns a name of the locked file, the same in all containers of a machine; empty if the machine has no name."""
    status, boot = os.fstat(lock), name_boot()
    return f"{boot} {status.st_dev} {status.st_ino}" if boot else ""


def _age_s(seen: Sighting, lock: int) -> float:
    """Returns the seconds since a heartbeat was touched, by the file system's clock: those of hosts may differ."""
    try:
        os.utime(lock)
        now_ns = os.fstat(lock).st_mtime_ns
    except OSError:
        now_ns = time.time_ns()
    return max(0.0, (now_ns - seen.touched_ns) / 1e9)


def _in_use(folder: Path, seen: Sighting | None) -> ConfigError:
    whose = f" ({seen})" if seen else ""
    return ConfigError(f"--workdir={folder} is in use by another run{whose}. Choose another folder.")


def _open_lock(path: Path) -> int:
    """Opens the file to lock, which is created if missing and never changed; a link is not followed.

    Raises:
        ConfigError: if the path has something else, or cannot be opened.
    """
    with _named_failures(path):
        try:
            return heartbeat.make_shared(path, os.O_RDWR)
        except FileExistsError:
            pass
        try:
            return os.open(path, os.O_RDWR | OPEN_FLAGS)
        except PermissionError:  # The file is another user's; most file systems can lock it nevertheless.
            return os.open(path, os.O_RDONLY | OPEN_FLAGS)


@contextlib.contextmanager
def _named_failures(path: Path) -> Iterator[None]:
    """Turns errors of the system about a guard's file into errors that name it.

    Raises:
        ConfigError: for any OSError except FileExistsError.
    """
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        found, remedy = f"cannot be written ({error.strerror})", "Choose another folder"
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            found = "is a symbolic link" if error.errno == errno.ELOOP else f"cannot be opened ({error.strerror})"
            remedy = "Remove it"
        elif isinstance(error, PermissionError):
            found, remedy = f"cannot be opened ({error.strerror})", f"Ask its owner for `chmod a+rw {path}`"
        raise ConfigError(f"{path}, {_PURPOSE}, {found}. {remedy}.") from None
