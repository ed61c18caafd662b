"""A text file that grows by lines, on file systems that can append and in object stores, which cannot."""

from etils import epath


class LineFile:
    """Lines added to what a file holds.

    On a file system each is there at once. An object store takes whole objects only: there the lines are kept here and
    the object is written anew by `sync` and `close`, so that what it holds is always whole.
    """

    def __init__(self, path: epath.Path, *, appends: bool | None = None, kept: str | None = None):
        """Opens the file.

        Args:
            path: of the file.
            appends: whether its file system can; by default that of a path without `://`.
            kept: what to go on from, in place of what is there; None keeps that as it is.

        Raises:
            OSError: if it cannot be written, as all the others.
        """
        appends = "://" not in str(path) if appends is None else appends
        self._path = path
        self._object: list[str] | None = None
        self._file = None
        if kept is not None and appends:
            beside = path.with_name(f"{path.name}.kept")
            beside.write_text(kept)
            beside.replace(path)
        if appends:
            self._file = path.open("a")
        else:
            self._object = [path.read_text() if kept is None and path.exists() else kept or ""]

    def write(self, line: str) -> None:
        """Adds a line, without its end."""
        if self._object is not None:
            self._object.append(f"{line}\n")
        elif self._file is not None:
            self._file.write(f"{line}\n")
            self._file.flush()

    def sync(self) -> None:
        """Has all lines so far in the file."""
        if self._object is not None:
            self._object = ["".join(self._object)]
            self._path.write_text(self._object[0])

    def close(self) -> None:
        """Syncs and closes; may be called twice."""
        self.sync()
        self._object = None
        if self._file is not None:
            self._file.close()
