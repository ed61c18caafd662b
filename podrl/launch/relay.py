"""Output of several processes in one stream: whole lines, each with the name of its process in front."""

import os
import selectors
from typing import IO

_CHUNK_BYTES = 1 << 16
_NOISE = b"[Gloo] Rank "  # What the CPU's collectives say of themselves on stdout, past every log.
_LONGEST_LINE_BYTES = 1 << 20  # Longer ones are cut.


class Relay:
    """Passes lines on from any number of pipes; a context manager that closes them."""

    def __init__(self) -> None:
        """Listens to nobody yet."""
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> "Relay":
        return self

    def __exit__(self, *_: object) -> None:
        for key in list(self._selector.get_map().values()):
            self._drop(key.fileobj, key.data)  # type: ignore[arg-type]
        self._selector.close()

    def add(self, pipe: IO[bytes], name: str, target: IO[bytes]) -> None:
        """From now on lines of `pipe` go to `target`, as `[name] line` unless they start with `[name ` already."""
        self._selector.register(pipe, selectors.EVENT_READ, _Lines(name, target))

    def pass_on(self, timeout_s: float) -> bool:
        """Passes on what has come, or comes within `timeout_s`; whether there was anything.

        Raises:
            BrokenPipeError: if nobody reads the target any more.
        """
        if not self._selector.get_map():
            return False
        ready = self._selector.select(timeout_s)
        for key, _ in ready:
            chunk = key.fileobj.read1(_CHUNK_BYTES)  # type: ignore[union-attr]
            if chunk:
                key.data.take(chunk)
            else:
                self._drop(key.fileobj, key.data)  # type: ignore[arg-type]
        return bool(ready)

    @property
    def listens(self) -> bool:
        """Whether any pipe is still open."""
        return bool(self._selector.get_map())

    def _drop(self, pipe: IO[bytes], lines: "_Lines") -> None:
        self._selector.unregister(pipe)
        pipe.close()
        lines.end()


class _Lines:
    """What one pipe has brought since the last end of a line."""

    def __init__(self, name: str, target: IO[bytes]) -> None:
        self._own = f"[{name} ".encode()
        self._prefix = f"[{name}] ".encode()
        self._target = target
        self._rest = b""

    def take(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > _LONGEST_LINE_BYTES:
            lines, self._rest = [*lines, self._rest], b""
        self._write(lines)

    def end(self) -> None:
        """Passes on a last line without an end."""
        lines, self._rest = [self._rest] if self._rest else [], b""
        self._write(lines)

    def _write(self, lines: list[bytes]) -> None:
        lines = [line for line in lines if not line.startswith(_NOISE)]
        if lines:
            whole = (line if line.startswith(self._own) else self._prefix + line for line in lines)
            try:
                self._target.write(b"".join(line + b"\n" for line in whole))
                self._target.flush()
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._target.fileno())  # This is said once.
                raise
