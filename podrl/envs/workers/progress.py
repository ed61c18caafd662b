"""Which environment a worker process is busy with, in a file that it shares with its parent.

A worker that hangs or dies in an environment cannot say so: its parent looks here.
"""

import mmap
import os
import struct
import tempfile

_FORMAT = struct.Struct("i")
_NONE = -1


class BusyEnvironment:
    """One number in shared memory."""

    def __init__(self, fd: int | None = None):
        """Opens the file with this descriptor, or a new one that has no name."""
        if fd is None:
            fd = _open_nameless()
            os.ftruncate(fd, _FORMAT.size)
            self._memory = mmap.mmap(fd, _FORMAT.size)
            self.write(_NONE)
        else:
            self._memory = mmap.mmap(fd, _FORMAT.size)
        self.fd = fd

    def write(self, index: int) -> None:
        """Says whose turn it is."""
        _FORMAT.pack_into(self._memory, 0, index)

    def read(self) -> int | None:
        """Whose turn it was last; None before the first."""
        (index,) = _FORMAT.unpack_from(self._memory)
        return None if index == _NONE else index

    def close(self) -> None:
        """Frees the memory and the descriptor."""
        self._memory.close()
        os.close(self.fd)


def _open_nameless() -> int:
    """An empty file without a name: in memory where the system has such, as there may be no temporary folder."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("podrl-progress")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
