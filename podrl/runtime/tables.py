"""How the tools print tables and lines, show numbers over repeats, and write tables to files."""

from collections.abc import Container, Iterable, Mapping, Sequence
import csv
import io
import sys
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from podrl.config.config import ConfigError

FORMATS = ("csv", "parquet")  # of files
_PLAIN_WIDTH = 1000  # columns; wide enough that no row of a table breaks


def make_table(
    headings: Sequence[str], *, plain: bool, texts: Sequence[str] | None = None, folds: bool = False
) -> Table:
    """Makes an empty table: Markdown, with one line per row, where it is `plain`.

    Args:
        headings: One for each column; the columns of numbers are aligned to the right.
        plain: Whether the console is no terminal.
        texts: Headings of the columns that hold text; by default the first.
        folds: Whether long values are folded in a narrow terminal; else rows stay whole.
    """
    table = Table(box=box.MARKDOWN if plain else box.SIMPLE_HEAD)
    for heading in headings:
        is_text = heading in (headings[:1] if texts is None else texts)
        justify: Literal["left", "right"] = "left" if is_text else "right"
        table.add_column(heading, justify=justify, no_wrap=not folds, overflow="fold")
    return table


def compact(count: float) -> str:
    """`9,600`, `153k`, `1.23M`, `10M`, `2.5B`: three digits from ten thousand on."""
    if count < 10_000:
        return f"{count:,.0f}"
    for size, suffix in ((1e9, "B"), (1e6, "M")):
        if count >= 0.9995 * size:
            return f"{count / size:.3g}{suffix}"
    return f"{count / 1e3:.3g}k"


def print_lines(console: Console, lines: Iterable[str]) -> None:
    """Prints lines that the terminal wraps."""
    for line in lines:
        console.print(line, soft_wrap=True)


def describe_spread(found: Mapping[str, float], form: str, *, plain: bool = True) -> str:
    """`12% (10% to 13%)`: median, min and max, the latter two below the median in a terminal's table."""
    between = " " if plain else "\n"
    return f"{found['median']:{form}}{between}({found['min']:{form}} to {found['max']:{form}})"


def describe_rates(found: Mapping[str, float], *, plain: bool = True) -> str:
    """`12,345 (12k to 13k)`: the median of rates in full, min and max in short."""
    between = " " if plain else "\n"
    return f"{found['median']:,.0f}{between}({compact(found['min'])} to {compact(found['max'])})"


def print_table(console: Console, table: Table) -> None:
    """Prints a table completely: narrowed to the terminal, it would lose digits, while long lines are only wrapped."""
    width = console.width
    needed = Measurement.get(console, console.options.update_width(_PLAIN_WIDTH), table).maximum
    console.width = max(width, needed)
    try:
        console.print(table)
    finally:
        console.width = width


def print_rows(
    console: Console,
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    texts: Sequence[str] | None = None,
    bold: Container[str] = (),
) -> None:
    """Prints a table of rows, as `make_table` makes it; those that begin with one of `bold` stand out."""
    table = make_table(headings, plain=not console.is_terminal, texts=texts)
    for row in rows:
        table.add_row(*row, style="bold" if row[0] in bold else None)
    print_table(console, table)


def make_console() -> Console:
    """Returns a console on stdout: as wide as the terminal; in a file or a pipe so wide that every row is one line.

    Text is printed literally, without markup or added colours.
    """
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _PLAIN_WIDTH)


def encode_table(rows: Sequence[Mapping[str, Any]], table_format: str) -> bytes:
    """A table as a `csv` or `parquet` file; all rows have the same columns."""
    if table_format == "parquet":
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise ConfigError("--table parquet needs pyarrow: pip install pyarrow. Or use --table csv.") from None
        sink = io.BytesIO()
        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), sink)
        return sink.getvalue()
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
