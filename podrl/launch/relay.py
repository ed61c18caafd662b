"""Relays the output of several processes to one stream, in whole lines that begin with the name of their process.

Every process finds a mistake in the command: its line is held back for a moment, and shown once if all print it.
"""

from collections.abc import Callable, Iterable
import contextlib
import os
import selectors
import time
from typing import IO, Any, Protocol

from absl import logging

from podrl.runtime.streams import PatientWriter, binary_of

_CHUNK_BYTES = 1 << 16
_NOISE = b"[Gloo] Rank "  # Messages that the CPU's collectives print on stdout, past every log.
_LONGEST_LINE_BYTES = 1 << 20  # Longer ones are cut.
_LAST_WORDS = b"podrl: "  # Begins the last line of a process after a mistake, or after an early Ctrl-C.
_HOLD_S = 3.0  # How long last lines wait for those of the other processes.


class Relay:
    """Passes lines on from any number of pipes; a context manager that closes them."""

    def __init__(self) -> None:
        """Starts without pipes; `add` adds them."""
        self._selector = selectors.DefaultSelector()
        self._names: set[str] = set()
        self._targets: dict[int, _Target] = {}
        self._held: dict[str, tuple[bytes, _Target]] = {}  # Last lines by process.
        self._held_s = 0.0  # When the first of them arrived.

    def __enter__(self) -> "Relay":
        return self

    def __exit__(self, *_: object) -> None:
        for key in list(self._selector.get_map().values()):
            self._drop(key.fileobj, key.data)  # type: ignore[arg-type]
        self._release()
        self._selector.close()

    def add(self, pipe: IO[bytes], name: str, target: Any) -> None:
        """Relays lines of `pipe` to `target` from now on, as `[name] line` unless they start with `[name ` already.

        Args:
            pipe: pipe to read from.
            name: name of the process behind it.
            target: a stream of bytes or of text, such as `sys.stdout`, also a notebook's.
        """
        self._names.add(name)
        binary = binary_of(target)
        number = id(target) if binary is None else binary.fileno()
        if number not in self._targets:
            self._targets[number] = _Text(target) if binary is None else _Descriptor(binary)
        self._selector.register(pipe, selectors.EVENT_READ, _Lines(name, self._targets[number], self._hold))

    def pass_on(self, timeout_s: float) -> bool:
        """Relays the output that is available, or arrives within `timeout_s`; returns whether there was any.

        If the target's reader has closed it, as in `| head`, output is lost: the results of a run are in its folder.
        """
        if not self._selector.get_map():
            return False
        if self._held and time.monotonic() - self._held_s > _HOLD_S:
            self._release()
        ready = self._selector.select(timeout_s)
        for key, _ in ready:
            chunk = key.fileobj.read1(_CHUNK_BYTES)  # type: ignore[union-attr]
            if chunk:
                key.data.take(chunk)
            else:
                self._drop(key.fileobj, key.data)  # type: ignore[arg-type]
        if not self.listens:
            self._release()
        return bool(ready)

    @property
    def listens(self) -> bool:
        """Whether any pipe is still open."""
        return bool(self._selector.get_map())

    def _drop(self, pipe: IO[bytes], lines: "_Lines") -> None:
        self._selector.unregister(pipe)
        pipe.close()
        lines.end()

    def _hold(self, name: str, line: bytes, target: "_Target") -> None:
        """Keeps a process's last line until all processes have printed theirs."""
        if name in self._held:
            self._release()
        if not self._held:
            self._held_s = time.monotonic()
        self._held[name] = line, target
        if self._held.keys() == self._names:
            self._release()

    def _release(self) -> None:
        """Prints the held lines: once if all processes have the same."""
        held, self._held = self._held, {}
        said = {line for line, _ in held.values()}
        if len(held) > 1 and held.keys() == self._names and len(said) == 1:
            line, target = next(iter(held.values()))
            target.write([b"[all] " + line])
            return
        for name, (line, target) in held.items():
            target.write([f"[{name}] ".encode() + line])


class _Lines:
    """The part of a pipe's output that follows its last complete line."""

    def __init__(self, name: str, target: "_Target", hold: Callable[[str, bytes, "_Target"], None]) -> None:
        self._name = name
        self._hold = hold
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
        """Relays a last line that has no line break."""
        lines, self._rest = [self._rest] if self._rest else [], b""
        self._write(lines)

    def _write(self, lines: list[bytes]) -> None:
        for line in [line for line in lines if line.startswith(_LAST_WORDS)]:
            self._hold(self._name, line, self._target)
        lines = [line for line in lines if not line.startswith((_NOISE, _LAST_WORDS))]
        if lines:
            self._target.write([line if line.startswith(self._own) else self._prefix + line for line in lines])


class _Target(Protocol):
    """A stream that lines are written to."""

    def write(self, lines: Iterable[bytes]) -> None: ...


class _Text:
    """A stream of text without a descriptor, such as a notebook's."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, lines: Iterable[bytes]) -> None:
        if self._stream is not None:
            self._stream.write(b"".join(line + b"\n" for line in lines).decode(errors="replace"))
            self._stream.flush()


class _Descriptor:
    """A stream with a descriptor; output is lost if its reader closes it, or does not read for long."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._writer = PatientWriter(stream.fileno())
        self._told = False

    def write(self, lines: Iterable[bytes]) -> None:
        try:
            with contextlib.suppress(BlockingIOError):
                self._stream.flush()
            if not self._writer.write(memoryview(b"".join(line + b"\n" for line in lines))) and not self._told:
                self._told = True
                logging.warning("Some of what the processes print is lost: it was not read in time. The run continues.")
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())  # The warning is logged once.
            logging.warning("What the processes print is lost (%s). The run continues.", error.strerror)
