"""How the tools print their tables."""

import sys

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

_PLAIN_WIDTH = 1000  # Columns; wide enough that no row of a table breaks.


def print_table(console: Console, table: Table) -> None:
    """Prints a table completely: narrowed to the terminal, it would lose digits, while long lines are only wrapped."""
    width = console.width
    needed = Measurement.get(console, console.options.update_width(_PLAIN_WIDTH), table).maximum
    console.width = max(width, needed)
    try:
        console.print(table)
    finally:
        console.width = width


def make_console() -> Console:
    """Returns a console on stdout: as wide as the terminal; in a file or a pipe so wide that every row is one line.

    Text is printed literally, without markup or added colours.
    """
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
