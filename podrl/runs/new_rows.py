"""Reads the rows of a run under way as they come, beside the process that writes them."""

from etils import epath

from podrl.telemetry.metrics_file import Row, parse_row


class NewRows:
    """The rows that a `metrics.jsonl` got since it was last read.

    A resume drops rows and makes them again (`podrl.telemetry.kept_rows`). Then the file no longer has the line that
    was read last at its place, and all of it is read anew: its reader has to know what it had.
    """

    def __init__(self, path: epath.PathLike) -> None:
        """Starts before the first row; the file may not be there yet."""
        self._path = epath.Path(path)
        self._end, self._last = 0, b""

    def read(self) -> list[Row]:
        """Returns the new rows, without an incomplete last line and without broken ones.

        Raises:
            OSError: if the file cannot be read.
        """
        if not self._path.exists():
            return []
        rows = []
        with self._path.open("rb") as file:
            file.seek(self._end - len(self._last))
            if file.read(len(self._last)) != self._last:
                self._end, self._last = 0, b""
                file.seek(0)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._end, self._last = self._end + len(line), line
                if (row := parse_row(line)) is not None:
                    rows.append(row)
        return rows
