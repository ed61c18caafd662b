"""Drops the rows of metrics that a resumed run makes again from their file, in place.

Rows to drop are nearly always the last ones, and then the file is only cut. If rows to keep follow them, such as the
row of an evaluation that took longer, these are moved up, a block at a time. What is about to be written is first noted
beside the file, so that the next start finishes what a crash has interrupted.
"""

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import BinaryIO

from etils import epath

from podrl.telemetry.metrics_file import BLOCK_BYTES, MOVED, field_reader, newest_rows, read_lines, update_of
from podrl.telemetry.rates import BEFORE_KEY, CLOCK_FIELDS, RATE_KEY, START_KEY, WALL_KEY, RunClock

_COPY = "metrics.jsonl.kept"  # Earlier versions wrote all kept rows to this file.
_RATE, _WALL, _START, _BEFORE = (f'"{key}": '.encode() for key in (RATE_KEY, WALL_KEY, START_KEY, BEFORE_KEY))
_IN_FRONT = 200  # Bytes within which `podrl.telemetry.writer` puts the rate.


def keeps(line: bytes, learner_steps: int) -> bool:
    """Returns whether a line is complete and of an update that is kept when a run resumes after this one."""
    update = update_of(line)
    return update is not None and update <= learner_steps


def run_seconds(workdir: epath.PathLike, learner_steps: int) -> float:
    """Returns the run's clock at its newest row of an update up to this one; 0 without any.

    Only rows at which a start may end or begin are parsed; the others do not matter.
    """
    clock, read = RunClock(), field_reader(CLOCK_FIELDS)
    newest, newest_s = b"", 0.0
    path = epath.Path(workdir) / "metrics.jsonl"
    for line in read_lines(path) if path.exists() else ():
        if (line.find(_RATE, 0, _IN_FRONT) < 0 and _BEFORE not in line) or not keeps(line, learner_steps):
            continue
        wall_s = _wall_s(line)
        if 0 <= newest_s <= wall_s and _START not in line and _BEFORE not in line:
            newest, newest_s = line, wall_s
            continue
        for each in filter(None, (newest, line)):
            clock.read(read(each))
        newest, newest_s = b"", wall_s
    if newest:
        clock.read(read(newest))
    return clock.seconds


def _wall_s(line: bytes) -> float:
    """Returns the clock of a row; negative if the row has to be parsed."""
    begin = line.rfind(_WALL) + len(_WALL)
    end = line.find(b",", begin)
    digits = line[begin:end] if end >= 0 else line[begin:-2]
    return float(digits) if digits.replace(b".", b"", 1).isdigit() else -1.0


def has_row_with(workdir: epath.PathLike, key: str, learner_steps: int) -> bool:
    """Returns whether `metrics.jsonl` has a row of this update with this metric.

    The file is read from the end, back to the row of an earlier update: all rows of this update come after that. In an
    object store rows of later updates remain until the file is written again.
    """
    for row in newest_rows(epath.Path(workdir) / "metrics.jsonl"):
        update = row.get("learner_steps")
        if update == learner_steps and key in row:
            return True
        if RATE_KEY in row and isinstance(update, int) and update < learner_steps:
            break
    return False


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Note:
    """A note, beside the file, on a drop in progress.

    Attributes:
        path: path of the note.
        until: the last update whose rows are kept.
        size: bytes of the file when the drop began; it keeps that size until it is cut.
    """

    path: Path
    until: int
    size: int

    def take(self, rows: bytes, *, read: int, write: int) -> None:
        """Notes rows that are about to be written, completely or not at all, and syncs the note to the disk first.

        Args:
            rows: all kept rows before `read`, to be written from `write` on.
            read: position up to which the file has been read.
            write: position at which the rows are written.
        """
        state = {"until": self.until, "size": self.size, "read": read, "write": write, "rows": rows.decode("latin-1")}
        written = self.path.with_name(f"{self.path.name}.tmp")
        try:
            with written.open("w") as file:
                file.write(json.dumps(state))
                file.flush()
                os.fsync(file.fileno())
            written.replace(self.path)
        except OSError:
            written.unlink(missing_ok=True)
            raise
        _sync_folder(self.path.parent)


def drop_rows(path: Path, learner_steps: int) -> None:
    """Drops rows of later updates and an incomplete last line; writes nothing if there is nothing to drop.

    Args:
        path: the `metrics.jsonl`, on a file system.
        learner_steps: the last update whose rows are kept.

    Raises:
        OSError: if the file cannot be read or written.
    """
    path.with_name(_COPY).unlink(missing_ok=True)
    _finish(path)
    with path.open("r+b") as file:
        begin = 0
        for line in file:
            if not (line.endswith(b"\n") and keeps(line, learner_steps)):
                note = _Note(path=path.with_name(MOVED), until=learner_steps, size=os.fstat(file.fileno()).st_size)
                _move_up(file, note, read=begin, write=begin)
                return
            begin += len(line)


def _finish(path: Path) -> None:
    """Finishes an interrupted drop; the note on a file that was replaced since is ignored."""
    try:
        state = json.loads(path.with_name(MOVED).read_bytes())
    except FileNotFoundError:
        return
    note = _Note(path=path.with_name(MOVED), until=state["until"], size=state["size"])
    rows, write = state["rows"].encode("latin-1"), state["write"]
    with path.open("r+b") as file:
        if os.fstat(file.fileno()).st_size in (note.size, write + len(rows)):
            _write_at(file, write, rows)
            _move_up(file, note, read=state["read"], write=write + len(rows))
    note.path.unlink(missing_ok=True)


def _move_up(file: BinaryIO, note: _Note, *, read: int, write: int) -> None:
    """Moves the kept rows after `read` to `write`, and cuts off the rest."""
    file.seek(read)
    while lines := file.readlines(BLOCK_BYTES):
        read += sum(map(len, lines))
        if rows := b"".join(line.removesuffix(b"\n") + b"\n" for line in lines if keeps(line, note.until)):
            note.take(rows, read=read, write=write)
            _write_at(file, write, rows)
            write += len(rows)
            file.seek(read)
    file.truncate(write)
    note.path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Syncs the names in a folder to the disk, if its file system supports that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_at(file: BinaryIO, position: int, rows: bytes) -> None:
    file.seek(position)
    file.write(rows)
    file.flush()
    os.fsync(file.fileno())
