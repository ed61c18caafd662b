import io
import sys

import pytest
from rich.table import Table

from podrl.runtime.tables import compact, make_console


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_rows_stay_whole_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setenv("COLUMNS", "60")
    table = Table("value")
    table.add_row("[bold]" + "x" * 290)
    make_console().print(table)
    assert "[bold]" + "x" * 290 in sys.stdout.getvalue()


def test_a_terminal_decides_itself(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    assert make_console().width == 60


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (9600, "9,600"),
        (153_600, "154k"),
        (999_400, "999k"),
        (999_600, "1M"),
        (1_234_567, "1.23M"),
        (10_000_000, "10M"),
        (999_600_000, "1B"),
        (2.5e9, "2.5B"),
    ],
)
def test_compact(count, text):
    assert compact(count) == text
