"""A pipe on which a member says that its run has ended: its process may end for other reasons with exit code 0."""

import contextlib
import os

from podrl.runtime.process_exit import END_VARIABLE


class EndPipe:
    """The launcher's end of the pipe.

    Attributes:
        environ: variables by which the member finds its end of the pipe.
        to_pass: descriptors that the member inherits.
    """

    def __init__(self, is_used: bool) -> None:
        """Opens the pipe if the member reports the end of its run; without it, `is_told` is always true."""
        self._read: int | None = None
        self.environ: dict[str, str] = {}
        self.to_pass: tuple[int, ...] = ()
        if is_used:
            self._read, write = os.pipe()
            os.set_blocking(self._read, False)
            self.environ = {END_VARIABLE: f"{os.getpid()}:{write}"}
            self.to_pass = (write,)

    def keep_reading(self) -> None:
        """Closes the member's end in this process, once the member has its own."""
        for descriptor in self.to_pass:
            os.close(descriptor)
        self.to_pass = ()

    def is_told(self) -> bool:
        """Returns whether the member, whose process has ended, reported the end of its run; call it once."""
        if self._read is None:
            return True
        with contextlib.suppress(BlockingIOError):  # One of the environment's processes holds the other end.
            return bool(os.read(self._read, 1))
        return False

    def close(self) -> None:
        """Closes all open descriptors; may be called again."""
        self.keep_reading()
        if self._read is not None:
            os.close(self._read)
        self._read = None
