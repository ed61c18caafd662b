import io
import sys

from rich.table import Table

from podrl.runtime.tables import make_console


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
