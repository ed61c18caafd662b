"""TensorBoard's event files, through tensorboardX.

Written by the thread that calls, and not as tensorboardX's own `SummaryWriter` does it by a thread of its own: when
that one meets a full disk it ends with a traceback, and the next calls wait for it for ever.
"""

from collections.abc import Mapping
import os
import time

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import directory_check

_FLUSH_S = 30.0  # A flush goes through to the disk, or uploads the whole file to an object store.


class EventFile:
    """One event file of scalars."""

    def __init__(self, folder: str, *, purge_step: int | None = None):
        """Opens a new file.

        Args:
            folder: where; made if it is not there.
            purge_step: TensorBoard forgets what earlier files of the folder have from this step on.

        Raises:
            OSError: if it cannot be written, as all the others.
        """
        directory_check(folder)
        self._writer = EventsWriter(os.path.join(folder, "events"))
        self._flushed_s = time.monotonic()
        if purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._writer.write_event(Event(wall_time=time.time(), step=purge_step, session_log=start))

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Adds one point to the curve of each scalar."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._writer.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        if time.monotonic() - self._flushed_s > _FLUSH_S:
            self.sync()

    def sync(self) -> None:
        """Has all points so far in the file, wherever that is."""
        self._writer.flush()
        self._flushed_s = time.monotonic()

    def close(self) -> None:
        """Writes what is left and closes the file."""
        self._writer.close()
