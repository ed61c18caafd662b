"""Locks of conductors that share a folder; the kernel releases those of a process that ends, however it ends."""

from collections.abc import Iterator
import contextlib
import fcntl
from pathlib import Path


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock, after a wait."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def holds(stack: contextlib.ExitStack, path: Path) -> bool:
    """Takes a lock until the stack is closed; returns whether no other process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    stack.callback(file.close)
    return True
