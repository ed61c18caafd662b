"""Where the tools print their tables."""

import sys

from rich.console import Console

_PLAIN_WIDTH = 1000  # columns; wide enough that no row of a table breaks


def make_console() -> Console:
    """Stdout: as wide as the terminal, and in a file or a pipe so wide that every row stays one line.

    Text is printed as it is, without markup or colours of its own.
    """
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
