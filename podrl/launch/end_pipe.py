"""A pipe on which a member says that its run has ended: whatever else ends its process may do so with exit code 0."""

import contextlib
import os

from podrl.runtime.process_exit import END_VARIABLE


class EndPipe:
    """The launcher's side.

    Attributes:
        environ: variables by which the member finds its end.
        to_pass: descriptors that it inherits.
    """

    def __init__(self, is_used: bool) -> None:
        """Opens the pipe, for a member that says so; any other has always said it."""
        self._read: int | None = None
        self.environ: dict[str, str] = {}
        self.to_pass: tuple[int, ...] = ()
        if is_used:
            self._read, write = os.pipe()
            os.set_blocking(self._read, False)
            self.environ = {END_VARIABLE: f"{os.getpid()}:{write}"}
            self.to_pass = (write,)

    def keep_reading(self) -> None:
        """Closes the member's end here, once it has its own."""
        for descriptor in self.to_pass:
            os.close(descriptor)
        self.to_pass = ()

    def is_told(self) -> bool:
        """Whether the member, which has ended, said that its run had; to be asked once."""
        if self._read is None:
            return True
        with contextlib.suppress(BlockingIOError):  # A process of the environment's holds the other end.
            return bool(os.read(self._read, 1))
        return False

    def close(self) -> None:
        """Closes what is open; may be called again."""
        self.keep_reading()
        if self._read is not None:
            os.close(self._read)
        self._read = None
