"""Prints the result of `podrl.runs.comparison`: two tables and a line."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from podrl.mistakes import shorten
from podrl.runs.comparison import Comparison, boundary_note, conclusion
from podrl.runs.records import Record
from podrl.runtime.tables import make_table


def show_comparison(console: Console, a: Record, b: Record, comparison: Comparison) -> None:
    """Prints which runs were compared, which settings differ, how long the runs agree, and what that means."""
    for name, run, newest in zip("AB", (a, b), comparison.newest, strict=True):
        console.print(f"{name}: {run.folder}: {_describe(run, newest)}", soft_wrap=True)
    plain = not console.is_terminal
    if comparison.settings:
        console.print(make_settings_table(comparison, plain=plain))
    else:
        console.print("Config, seed, software and hardware are equal.", soft_wrap=True)
    console.print(make_agreement_table(comparison, plain=plain))
    if note := boundary_note(comparison):
        console.print(note, soft_wrap=True)
    style = "bold green" if comparison.is_equal else "bold red"
    verdict = " ".join(filter(None, (conclusion(comparison), versions_note(comparison))))
    console.print(Text(verdict, style=style), soft_wrap=True)


def make_settings_table(comparison: Comparison, *, plain: bool) -> Table:
    """Makes a table with a row per setting that differs; `plain` is Markdown."""
    headings = ("", "differs in", "A", "B")
    table = make_table(headings, plain=plain, texts=headings, folds=True)
    for setting in comparison.settings:
        table.add_row(*map(Text, (setting.kind, setting.key, setting.a, setting.b)))
    return table


def make_agreement_table(comparison: Comparison, *, plain: bool) -> Table:
    """Makes a table of how long data, parameters and chains agree; `plain` is Markdown."""
    headings = ("fingerprints", "agree until update", "differ from update")
    table = make_table(headings, plain=plain, texts=headings, folds=True)
    rows = {"data": comparison.batch, "parameters": comparison.params, "chain": comparison.chain}
    for name, agreement in rows.items():
        if agreement is not None:
            first = "-" if agreement.first is None else f"{agreement.first:,}"
            table.add_row(name, f"{agreement.until:,}" if agreement.until else "-", first)
    return table


def versions_note(comparison: Comparison) -> str:
    """Returns a note that names libraries of which the runs had other versions, which alone may change bits."""
    prefix = "versions."
    found = [
        f"{setting.key.removeprefix(prefix)} {setting.a} and {setting.b}"
        for setting in comparison.settings
        if setting.key == "python" or setting.key.startswith(prefix)
    ]
    if not found or comparison.is_equal:
        return ""
    return f"Versions differ, which alone may change bits: {shorten(found, 8)}."


def _describe(run: Record, newest: int) -> str:
    """Returns `impala_catch on Catch-v0, 120 updates, a row every 10, started 2 times`, and more."""
    config: Mapping[str, Any] = run.config
    starts = f", started {len(run.manifests)} times" if len(run.manifests) > 1 else ""
    if any((manifest["commit"] or "").endswith("+changes") for manifest in run.manifests):
        starts += ", its code with uncommitted changes"
    return (
        f"{config['name']} on {config['env']['id']}, {newest:,} updates, a row every "
        f"{config['log']['every_updates']:,}{starts}"
    )
