"""A file by which a process says that it has a folder: who it is and, by the file's time, that it still runs.

A process replaces another's heartbeat and never changes it. So the owner recognises its own by the content. It does not
use the inode: a file system gives it to the next file, and NFS cannot tell that of a deleted file.
"""

from collections.abc import Mapping
import contextlib
import dataclasses
import json
import os
from pathlib import Path
import secrets
import threading
import time
from typing import Any

from podrl.runtime.process_identity import name_this_process

NAME = ".heartbeat"
BEAT_S = 5.0  # Between two beats.
GONE_S = 60.0  # Without a beat for this long, a process that cannot be looked up has ended.
WATCH_S = 3 * BEAT_S  # Watched at least this long: hosts' clocks may differ, and a file system may have hung.
OPEN_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # Follows no link, waits for no pipe, is not inherited.
_LOOKS, _LOOK_S = 20, 0.05  # A heartbeat may be renamed for a moment, see `remove`.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sighting:
    """A heartbeat as it was found.

    Attributes:
        owner: its content; empty if that is incomplete.
        file: device and inode.
        touched_ns: time of the last beat, by the file system's clock.
    """

    owner: Mapping[str, Any]
    file: tuple[int, int]
    touched_ns: int

    def __str__(self) -> str:
        known = {name: self.owner.get(name, "?") for name in ("process", "host", "since")}
        return "process {process} on {host}, since {since}".format(**known)


def see(folder: Path) -> Sighting | None:
    """Returns the heartbeat in a folder; None if there is none.

    Raises:
        OSError: if it cannot be read.
    """
    return _read(folder / NAME)


def _read(path: Path | str, folder: int | None = None) -> Sighting | None:
    """Returns the heartbeat at any path, which may be relative to an open folder."""
    try:
        descriptor = os.open(path, os.O_RDONLY | OPEN_FLAGS, dir_fd=folder)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as file:
        status, text = os.fstat(descriptor), file.read()
    try:
        owner = json.loads(text)
    except ValueError:  # Half-written.
        owner = {}
    return Sighting(
        owner=owner if isinstance(owner, dict) else {},
        file=(status.st_dev, status.st_ino),
        touched_ns=status.st_mtime_ns,
    )


def remove(folder: Path, seen: Sighting) -> None:
    """Removes a heartbeat unless it was replaced or touched since; of several processes that try, one succeeds.

    Raises:
        OSError: if it cannot be removed.
    """
    path = folder / NAME
    aside = folder / f"{NAME}-{secrets.token_hex(8)}"
    with contextlib.suppress(FileNotFoundError):
        if see(folder) != seen:
            return
        path.rename(aside)
        if _read(aside) == seen:
            aside.unlink()
        else:
            aside.rename(path)


def make_shared(path: Path, flags: int) -> int:
    """Creates and opens a file for all users who may write to its folder, whatever this process's umask.

    Raises:
        FileExistsError: if it exists.
    """
    descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL | OPEN_FLAGS, 0o644)
    with contextlib.suppress(OSError):  # File systems without modes.
        os.fchmod(descriptor, path.parent.stat().st_mode & 0o666 | 0o600)
    return descriptor


class Heartbeat:
    """This process's heartbeat, touched by a thread until it is closed.

    Attributes:
        lost: how the folder was lost, in words, as far as is known; empty if it was not.
    """

    def __init__(self, folder: Path, lock: str = "") -> None:
        """Writes the file and starts the thread.

        Args:
            folder: the folder to hold.
            lock: name of the lock that this process holds, the same for other processes; empty without a lock.

        Raises:
            FileExistsError: if there is a heartbeat already.
            OSError: if none can be made.
        """
        self.lost = ""
        self._path = folder / NAME
        self._owner = {
            **name_this_process(),
            "lock": lock,
            "id": secrets.token_hex(8),
            "since": time.strftime("%FT%T%z"),
        }
        self._file = self._write()
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._place = _path_of(self._folder)
        self._closed, self._looking = threading.Event(), threading.Lock()
        self._looked_s = time.time()  # Not a monotonic clock: on some systems it stops with the machine.
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def find_loss(self) -> str:
        """Checks whether the folder was lost and says how; empty if it was not, or if the system cannot say."""
        with self._looking, contextlib.suppress(OSError):
            self._looked_s = time.time()
            for _ in range(_LOOKS):
                self.lost = self.lost or self._find_move()
                if self.lost or (found := see(self._path.parent)) is not None:
                    break
                time.sleep(_LOOK_S)
            else:  # The file was deleted.
                before, self._file = self._file, self._write()
                os.close(before)
                return ""
            if not self.lost and found is not None and found.owner and not self._is_mine(found):
                self.lost = self._tell_of(found)
        return self.lost

    def stood_still(self) -> bool:
        """Returns whether this process has not looked for several beats, as after a pause."""
        return abs(time.time() - self._looked_s) > WATCH_S

    def close(self) -> None:
        """Stops the thread, and removes the file if it is still this process's."""
        self._closed.set()
        self._thread.join(BEAT_S)
        if self._thread.is_alive():  # The file system does not answer.
            return
        with contextlib.suppress(OSError):
            found = _read(NAME, self._folder)  # Wherever the folder is now.
            if found is not None and self._is_mine(found):
                os.unlink(NAME, dir_fd=self._folder)
        os.close(self._file)
        os.close(self._folder)

    def _write(self) -> int:
        descriptor = make_shared(self._path, os.O_RDWR)
        try:
            os.write(descriptor, (json.dumps(self._owner) + "\n").encode())
            os.fsync(descriptor)
        except OSError:  # No space: an empty heartbeat would make others wait.
            os.close(descriptor)
            self._path.unlink(missing_ok=True)
            raise
        return descriptor

    def _is_mine(self, found: Sighting) -> bool:
        return found.owner.get("id") == self._owner["id"]

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_S):
            with self._looking, contextlib.suppress(OSError):  # The file system is away for a while.
                os.utime(self._file)
            self.find_loss()

    def _find_move(self) -> str:
        """Says what happened if the folder's path no longer leads to the folder; empty if it does."""
        folder = self._path.parent
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if os.path.samestat(os.stat(folder), os.fstat(self._folder)):
                return ""
        now = _path_of(self._folder)
        if now.endswith(" (deleted)"):
            return f"{folder}, the folder of this run, was deleted while it trained: the run has stopped."
        where = f"to {now} " if now != self._place else ""
        return (
            f"{folder}, the folder of this run, was moved {where}while it trained: the run has stopped. To resume, "
            f"repeat the command with --workdir={now if where else 'FOLDER, where it is now'}."
        )

    def _tell_of(self, found: Sighting) -> str:
        return (
            f"{self._path.parent} was taken by another run ({found}), because {NAME} had not been touched for "
            f"{GONE_S:.0f} s. This run has stopped and leaves the folder to that one."
        )


def _path_of(descriptor: int) -> str:
    """Returns the current path of an open folder, as far as this system knows it."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""
