"""A text file that grows by lines, on file systems that can append and in object stores, which cannot."""

from collections.abc import Callable
import shutil
import tempfile

from etils import epath

from podrl.telemetry.metrics_file import BLOCK_BYTES, read_lines

_IN_MEMORY_BYTES = 64 << 20


class LineFile:
    """Appends lines to a file.

    On a file system each line is written at once. An object store takes whole objects only: there the lines are kept
    here (in a temporary file, if they are many), and `sync` and `close` write the object anew if there are new ones. So
    the object is always complete.
    """

    def __init__(self, path: epath.Path, *, appends: bool, keeps: Callable[[bytes], bool] = lambda line: True):
        """Opens the file.

        Args:
            path: path of the file.
            appends: whether its file system can append.
            keeps: if it cannot, selects the existing lines to keep.

        Raises:
            OSError: if it cannot be written; so do the other methods.
        """
        self._path = path
        self._file = path.open("ab") if appends else None
        self._object = None if appends else tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115
        self._has_news = False
        if self._object is not None:
            self._has_news = not path.exists()
            for line in () if self._has_news else read_lines(path):
                if keeps(line):
                    self._object.write(line.removesuffix(b"\n") + b"\n")
                else:
                    self._has_news = True

    def write(self, line: str) -> None:
        """Adds a line, given without its line break."""
        file = self._object or self._file
        if file is not None:
            file.write(f"{line}\n".encode())
            self._has_news = True
        if self._file is not None:
            self._file.flush()

    def sync(self) -> None:
        """Writes all lines so far to the file."""
        if self._object is not None and self._has_news:
            self._object.seek(0)
            with self._path.open("wb") as file:
                shutil.copyfileobj(self._object, file, BLOCK_BYTES)
            self._has_news = False

    def close(self) -> None:
        """Syncs and closes the file; may be called twice."""
        self.sync()
        for file in (self._object, self._file):
            if file is not None:
                file.close()
        self._object = None
