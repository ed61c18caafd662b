"""Where the tools print their tables."""

import sys

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

_PLAIN_WIDTH = 1000  # columns; wide enough that no row of a table breaks


def print_table(console: Console, table: Table) -> None:
    """Prints a table whole. Of one wider than the terminal, which then wraps its lines, digits would be cut off."""
    width = console.width
    needed = Measurement.get(console, console.options.update_width(_PLAIN_WIDTH), table).maximum
    console.width = max(width, needed)
    try:
        console.print(table)
    finally:
        console.width = width


def make_console() -> Console:
    """Stdout: as wide as the terminal, and in a file or a pipe so wide that every row stays one line.

    Text is printed as it is, without markup or colours of its own.
    """
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
