"""What a run prints, and that it does not end of it: a reader may go away, a terminal close, a disk fill up.

`python tools/tpu_launch.py ... | head` closes its pipe after ten lines, and each later line would raise
`BrokenPipeError`, wherever it is printed: in an environment, too. What a run learns is in its folder.
"""

import contextlib
import io
import os
import select
import sys
import time
from typing import Any, TextIO

from absl import logging

SLOW_READER_S = 10.0  # For a reader of a stream that does not block; then what is printed is lost.
_NAMES = ("stdout", "stderr")


def binary_of(stream: Any) -> Any:
    """The stream of bytes with a descriptor under a stream; None if it has none, as in a notebook.

    A notebook's may name a descriptor, which is not what its cells show.
    """
    is_text = isinstance(stream, io.TextIOBase) or stream is None
    binary = getattr(stream, "buffer", None) if is_text else stream
    try:
        return None if binary is None or binary.fileno() < 0 else binary
    except (OSError, ValueError):
        return None


def keep_printing() -> None:
    """From now on nothing that this process prints on stdout and stderr raises; that it is lost is logged once.

    To be called after absl's handler is in use, which knows other handlers by the stream that they have.
    Leaves streams alone that are something else than the process's own, as in tests.
    """
    for descriptor, name in enumerate(_NAMES, start=1):
        stream = getattr(sys, name)
        if (
            isinstance(stream, io.TextIOWrapper)
            and stream is getattr(sys, f"__{name}__")
            and stream.fileno() == descriptor
        ):
            with contextlib.suppress(OSError):
                stream.flush()
            kept = _keep(stream, name, descriptor)
            setattr(sys, name, kept)
            if name == "stderr":
                logging.get_absl_handler().python_handler.setStream(kept)


class PatientWriter:
    """Writes to a descriptor; if that does not block, and is full, its reader is waited for, for a while.

    Any program that shares a terminal or a pipe with this one may have made it such a descriptor.
    """

    def __init__(self, descriptor: int) -> None:
        """Writes nothing yet."""
        self._descriptor = descriptor
        self._is_read = True

    def write(self, data: memoryview) -> bool:
        """Writes, and says whether that was all; a reader that was waited for in vain is not waited for again.

        Raises:
            OSError: for another reason.
        """
        deadline_s = time.monotonic() + (SLOW_READER_S if self._is_read else 0.0)
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                if not self._await(deadline_s - time.monotonic()):
                    self._is_read = False
                    return False
        self._is_read = self._is_read or self._await(0.0)  # A few bytes may fit where nobody reads.
        return True

    def _await(self, limit_s: float) -> bool:
        return bool(select.select([], [self._descriptor], [], max(0.0, limit_s))[1])


class _Unbreakable(io.FileIO):
    """A descriptor that takes whatever is written, and drops what has no reader."""

    def __init__(self, descriptor: int, what: str) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._what = what
        self._told = False
        self._writer = PatientWriter(descriptor)

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Writes all of it, as nothing above would write the rest."""
        view = memoryview(data).cast("B")
        try:
            if not self._writer.write(view):
                self._tell("it was not read in time")
        except OSError as error:
            self._tell(error.strerror)
        return len(view)

    def _tell(self, why: str | None) -> None:
        if not self._told and self._what == "stdout":  # The log is what the other would carry.
            self._told = True
            logging.warning(
                "What is printed on stdout is lost (%s). The run goes on; its metrics are in its folder.",
                why,
            )


def _keep(stream: io.TextIOWrapper, name: str, descriptor: int) -> TextIO:
    """The same stream, as text goes, over a descriptor that does not raise."""
    raw = _Unbreakable(descriptor, name)
    # As Python itself does it: with PYTHONUNBUFFERED nothing is held back, whatever becomes of the process.
    buffer = raw if stream.write_through else io.BufferedWriter(raw)  # type: ignore[type-var]
    return io.TextIOWrapper(
        buffer,
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
