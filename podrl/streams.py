"""What a run prints, and that it does not end of it: a reader may go away, a terminal close, a disk fill up.

`python tools/tpu_launch.py ... | head` closes its pipe after ten lines, and each later line would raise
`BrokenPipeError`, wherever it is printed: in an environment, too. What a run learns is in its folder.
"""

import contextlib
import io
import sys
from typing import TextIO

from absl import logging

_NAMES = ("stdout", "stderr")


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


class _Unbreakable(io.FileIO):
    """A descriptor that takes whatever is written, and loses what nobody reads."""

    def __init__(self, descriptor: int, what: str) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._what = what
        self._told = False

    def write(self, data: bytes) -> int:  # type: ignore[override]
        try:
            return super().write(data)
        except BlockingIOError:
            raise
        except OSError as error:
            self._tell(error)
            return len(data)

    def _tell(self, error: OSError) -> None:
        if not self._told and self._what == "stdout":  # The log is what the other would carry.
            self._told = True
            logging.warning(
                "What is printed on stdout is lost (%s). The run goes on; its metrics are in its folder.",
                error.strerror,
            )


def _keep(stream: io.TextIOWrapper, name: str, descriptor: int) -> TextIO:
    """The same stream, as text goes, over a descriptor that does not raise."""
    return io.TextIOWrapper(
        io.BufferedWriter(_Unbreakable(descriptor, name)),  # type: ignore[type-var]
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
