"""The environment that a worker process is busy with, in a file that it shares with its parent.

A worker that hangs or dies in an environment cannot report it: its parent reads it here.
"""

import mmap
import os
import struct
import tempfile

_FORMAT = struct.Struct("i")
_NONE = -1


class BusyEnvironment:
    """The index of the busy environment, in shared memory."""

    def __init__(self, fd: int | None = None):
        """Opens the file with this descriptor, or a new file without a name."""
        if fd is None:
            fd = _open_nameless()
            os.ftruncate(fd, _FORMAT.size)
            self._memory = mmap.mmap(fd, _FORMAT.size)
            self.write(_NONE)
        else:
            self._memory = mmap.mmap(fd, _FORMAT.size)
        self.fd = fd

    def write(self, index: int) -> None:
        """Records which environment is called next."""
        _FORMAT.pack_into(self._memory, 0, index)

    def read(self) -> int | None:
        """Returns the environment that was called last; None before the first."""
        (index,) = _FORMAT.unpack_from(self._memory)
        return None if index == _NONE else index

    def close(self) -> None:
        """Frees the memory and the descriptor."""
        self._memory.close()
        os.close(self.fd)


def _open_nameless() -> int:
    """Opens an empty file without a name: in memory where possible, since there may be no temporary folder."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("podrl-progress")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
