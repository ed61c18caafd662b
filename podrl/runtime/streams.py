"""Keeps a run from ending when its output cannot be written: a reader may exit, a terminal close, a disk fill up.

`python tools/tpu_launch.py ... | head` closes its pipe after ten lines, and each later line would raise
`BrokenPipeError` wherever it is printed, also in an environment. The results of a run are in its folder.
"""

import contextlib
import io
import os
import select
import sys
import time
from typing import Any, TextIO

from absl import logging

SLOW_READER_S = 10.0  # Time for the reader of a non-blocking stream; after it, printed text is lost.
_NAMES = ("stdout", "stderr")


def binary_of(stream: Any) -> Any:
    """Returns the stream of bytes with a descriptor under a stream; None if it has none, as in a notebook.

    A notebook's stream may name a descriptor, but its cells do not show what is written there.
    """
    is_text = isinstance(stream, io.TextIOBase) or stream is None
    binary = getattr(stream, "buffer", None) if is_text else stream
    try:
        return None if binary is None or binary.fileno() < 0 else binary
    except (OSError, ValueError):
        return None


def keep_printing() -> None:
    """Makes prints to stdout and stderr never raise from now on; that output is lost is logged once.

    Call it after absl's handler is in use, which recognises other handlers by their stream. Streams other than the
    process's own, as in tests, are left alone.
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
    """Writes to a descriptor; if it is non-blocking and full, waits a while for its reader.

    Any program that shares a terminal or a pipe with this one may have made the descriptor non-blocking.
    """

    def __init__(self, descriptor: int) -> None:
        """Takes the descriptor and assumes that it has a reader."""
        self._descriptor = descriptor
        self._is_read = True

    def write(self, data: memoryview) -> bool:
        """Writes data and returns whether all was written; after one timeout it does not wait for the reader again.

        Raises:
            OSError: if writing fails for another reason.
        """
        deadline_s = time.monotonic() + (SLOW_READER_S if self._is_read else 0.0)
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                if not self._await(deadline_s - time.monotonic()):
                    self._is_read = False
                    return False
        self._is_read = self._is_read or self._await(0.0)  # A few bytes may fit although the reader has stopped.
        return True

    def _await(self, limit_s: float) -> bool:
        return bool(select.select([], [self._descriptor], [], max(0.0, limit_s))[1])


class _Unbreakable(io.FileIO):
    """A descriptor that accepts all writes and drops output that has no reader."""

    def __init__(self, descriptor: int, what: str) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._what = what
        self._told = False
        self._writer = PatientWriter(descriptor)

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Writes all of the data, as no layer above would write a remainder."""
        view = memoryview(data).cast("B")
        try:
            if not self._writer.write(view):
                self._tell("it was not read in time")
        except OSError as error:
            self._tell(error.strerror)
        return len(view)

    def _tell(self, why: str | None) -> None:
        if not self._told and self._what == "stdout":  # A message about stderr would itself go to stderr.
            self._told = True
            logging.warning(
                "What is printed on stdout is lost (%s). The run continues; its metrics are in its folder.",
                why,
            )


def _keep(stream: io.TextIOWrapper, name: str, descriptor: int) -> TextIO:
    """Returns a text stream like `stream` over a descriptor that does not raise."""
    raw = _Unbreakable(descriptor, name)
    # Buffered as Python does it: with PYTHONUNBUFFERED nothing is held back, however the process ends.
    buffer = raw if stream.write_through else io.BufferedWriter(raw)  # type: ignore[type-var]
    return io.TextIOWrapper(
        buffer,
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
