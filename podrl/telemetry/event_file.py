"""TensorBoard's event files, through tensorboardX.

TensorBoard reads the files of a folder one after the other, in the order of their names: it misses data in a file whose
name comes before that of a file that it has finished, or existed before. So each new name has a second
(`events.out.tfevents.<second>.<host>.<process>`) after those of all existing files, whatever the clock says.

The calling thread writes, unlike in tensorboardX's own `SummaryWriter`: when that one's thread meets a full disk it
ends with a traceback, and the next calls wait for it without end.
"""

from collections.abc import Mapping
import os
import re
import socket
import time

from etils import epath
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter, directory_check

_SECOND = re.compile(r"events\.out\.tfevents\.(\d{10})\.")
_FLUSH_S = 30.0  # A flush goes through to the disk, or uploads the whole file to an object store.


class EventFile:
    """One event file of scalars."""

    def __init__(self, folder: str, *, purge_step: int | None = None):
        """Opens a new file.

        Args:
            folder: folder of the event files; created if missing.
            purge_step: TensorBoard drops what earlier files of the folder have from this step on.

        Raises:
            OSError: if it cannot be written; so do the other methods.
        """
        directory_check(folder)
        self._writer = RecordWriter(os.path.join(folder, _new_name(folder)))
        self._flushed_s = time.monotonic()
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._write(Event(wall_time=time.time(), step=purge_step, session_log=start))

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Adds one point to the curve of each scalar."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        if time.monotonic() - self._flushed_s > _FLUSH_S:
            self.sync()

    def sync(self) -> None:
        """Flushes all points so far to the file, wherever that is."""
        self._writer.flush()
        self._flushed_s = time.monotonic()

    def close(self) -> None:
        """Writes the remaining points and closes the file."""
        self._writer.close()

    def _write(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())


def _new_name(folder: str) -> str:
    """Returns a name that TensorBoard reads after all event files in the folder."""
    names = (_SECOND.match(path.name) for path in epath.Path(folder).iterdir())
    newest = max((int(name[1]) for name in names if name), default=0)
    return f"events.out.tfevents.{max(int(time.time()), newest + 1):010d}.{socket.gethostname()}.{os.getpid()}"
