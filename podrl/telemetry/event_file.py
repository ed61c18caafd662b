"""TensorBoard's event files, through tensorboardX.

TensorBoard reads the files of a folder in the order of their names, and one after the other: what comes in a name
before that of a file which it has left, or in a name that was there before, is lost. So each new name has a second
(`events.out.tfevents.<second>.<host>.<process>`) after those of all files that are there, whatever the clock says.

Written by the thread that calls, and not as tensorboardX's own `SummaryWriter` does it by a thread of its own: when
that one meets a full disk it ends with a traceback, and the next calls wait for it for ever.
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
            folder: where; made if it is not there.
            purge_step: TensorBoard forgets what earlier files of the folder have from this step on.

        Raises:
            OSError: if it cannot be written, as all the others.
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
        """Has all points so far in the file, wherever that is."""
        self._writer.flush()
        self._flushed_s = time.monotonic()

    def close(self) -> None:
        """Writes what is left and closes the file."""
        self._writer.close()

    def _write(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())


def _new_name(folder: str) -> str:
    """The name of an event file that TensorBoard reads after all that are in the folder."""
    names = (_SECOND.match(path.name) for path in epath.Path(folder).iterdir())
    newest = max((int(name[1]) for name in names if name), default=0)
    return f"events.out.tfevents.{max(int(time.time()), newest + 1):010d}.{socket.gethostname()}.{os.getpid()}"
