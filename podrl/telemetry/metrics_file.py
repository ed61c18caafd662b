"""Reads a `metrics.jsonl` line by line: a run of weeks leaves a gigabyte of lines.

Every line is a flat JSON object, a *row*. A reader that needs a few of its fields cuts these out of the line, which
takes a tenth of the time of parsing all of it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import json
import math
from typing import Any

from etils import epath

BLOCK_BYTES = 1 << 20
MOVED = "metrics.jsonl.moved"  # Exists while a start of the run drops rows, and after a crash in between.
Row = Mapping[str, Any]


def read_lines(path: epath.Path, begin: int = 0) -> Iterator[bytes]:
    """Yields the lines of a file from a byte on, each with its line break; only the last may have none.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        file.seek(begin)
        yield from file


def read_back(path: epath.Path) -> Iterator[bytes]:
    """Yields the lines from the last to the first; reads no more of the file than the caller consumes.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        end = file.seek(0, 2)
        rest = b""  # The beginning of the block behind, whose line begins before it.
        while end:
            begin = max(0, end - BLOCK_BYTES)
            file.seek(begin)
            rest, *lines = (file.read(end - begin) + rest).splitlines(keepends=True) or [b""]  # Cut meanwhile: empty.
            yield from reversed(lines)
            end = begin
        if rest:
            yield rest


def newest_rows(path: epath.Path) -> Iterator[Row]:
    """Yields the rows from the last to the first, without broken ones; none if there is no such file.

    Raises:
        OSError: if it cannot be read.
    """
    if path.exists():
        yield from filter(None, map(parse_row, read_back(path)))


def parse_row(line: bytes) -> Row | None:
    """Returns the row of a line; None if it is broken, as by a crash."""
    try:
        row = json.loads(line)
    except ValueError:  # Not JSON, or not even text.
        return None
    return row if isinstance(row, dict) else None


def update_of(line: bytes) -> int | None:
    """Returns the update of a row; None if its line is broken. Fast, as `podrl.telemetry.writer` puts it first."""
    if line.startswith(_UPDATE) and line.endswith(b"}\n") and line.count(b"{") == 1:
        digits = line[len(_UPDATE) : line.find(b",", len(_UPDATE))]
        if digits.isdigit():
            return int(digits)
    update = (parse_row(line) or {}).get("learner_steps")
    return update if isinstance(update, int) else None


_UPDATE = b'{"learner_steps": '


def field_reader(names: Sequence[str]) -> Callable[[bytes], Row]:
    """Returns a function that reads the named fields out of a line, as far as the line has them.

    Raises:
        ValueError: by the returned function, on a line that is no JSON object.
    """
    keys = [(name, f"{json.dumps(name)}: ".encode()) for name in dict.fromkeys(names)]

    def read(line: bytes) -> Row:
        plain = line.endswith(b"}\n") and line.startswith(b'{"') and line.count(b"{") == 1
        if not plain or line.find(b'": ') != line.find(b'":'):  # Written by other code, or broken.
            return _all_fields(line, names)
        row: dict[str, Any] = {}
        for name, key in keys:
            begin = line.find(key)
            if begin < 0:
                continue
            begin += len(key)
            end = line.find(b",", begin)
            token = line[begin:end] if end >= 0 else line[begin:-2]
            try:
                row[name] = _value(token)
            except ValueError:  # The beginning of a text with commas, or of a list.
                return _all_fields(line, names)
        return row

    return read


def _value(token: bytes) -> int | float | str | bool | None:
    """Returns a field's value.

    Raises:
        ValueError: if it cannot be read in this simple way.
    """
    if b"." in token:  # Most numbers are of this kind.
        return float(token)
    if token.lstrip(b"-").isdigit():
        return int(token)
    if token.startswith(b'"'):
        if token.count(b'"') != 2 or not token.endswith(b'"') or b"\\" in token:
            raise ValueError("a part of a text, or one with escapes")
        return token[1:-1].decode()
    return _WORDS[token] if token in _WORDS else float(token)


_WORDS: dict[bytes, bool | None] = {b"null": None, b"true": True, b"false": False}


def _all_fields(line: bytes, names: Sequence[str]) -> Row:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError(f"expected an object, found {type(row).__name__}")
    return {name: row[name] for name in names if name in row}


def is_number(value: object) -> bool:
    """Returns whether a field holds a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)
