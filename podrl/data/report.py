"""Prints what `podrl.data.inspection` found: tables are Markdown if the console is no terminal."""

from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.table import Table

from podrl.config.units import describe_bytes
from podrl.data.inspection import DataDetails, describe_actions
from podrl.data.manifest import describe_policy
from podrl.runtime.tables import make_table


def show_data(console: Console, name: str, details: DataDetails) -> None:
    """Prints a data set's facts, and a table with a row for each recording."""
    console.print(f"{name}: {details.manifest.spec.env.id}", style="bold", soft_wrap=True)
    for label, value in _facts(details):
        console.print(f"  {label:<13} {value}", soft_wrap=True, highlight=False)
    console.print(_table(details, plain=not console.is_terminal))
    for line in details.damage:
        console.print(line, soft_wrap=True, highlight=False)


def _facts(details: DataDetails) -> Iterator[tuple[str, str]]:
    manifest, facts = details.manifest, details.facts
    spec = manifest.spec
    steps = int(facts.length.sum())
    yield "episodes", f"{len(facts.length):,} of {steps:,} steps in all, in {len(manifest.shards):,} shards"
    ratio = details.raw_bytes / max(details.size_bytes, 1)
    yield "size", f"{describe_bytes(details.size_bytes, 1)}, {ratio:.1f} times as much in memory"
    yield "columns", ", ".join(f"{column} {x.dtype}{list(x.shape)}" for column, x in spec.columns.items())
    ended = int(details.terminated.sum())
    cut = int((~details.terminated & facts.is_whole).sum())
    parts = int((~facts.is_whole).sum())
    yield "ended", f"{ended:,} terminated, {cut:,} truncated" + (f", {parts:,} are parts of episodes" if parts else "")
    rows = steps + len(facts.length)
    yield "observations", f"{details.distinct:,} distinct of {rows:,} ({details.distinct / max(rows, 1):.1%})"
    yield "actions", describe_actions(details)
    yield "made with", ", ".join(f"{library} {version}" for library, version in manifest.versions.items())


def _table(details: DataDetails, *, plain: bool) -> Table:
    headings = ("policy", "episodes", "steps", "return, mean", "lowest to highest", "length, mean", "complete")
    table = make_table(headings, plain=plain, texts=("policy", "complete"))
    for number, recording in enumerate(details.manifest.recordings):
        own = details.facts.take(details.facts.recording == number)
        whole = own.episode_return[own.is_whole]
        table.add_row(
            describe_policy(recording.facts),
            f"{len(own.length):,}",
            f"{int(own.length.sum()):,}",
            f"{whole.mean():,.2f}" if whole.size else "-",
            f"{whole.min():,.2f} to {whole.max():,.2f}" if whole.size else "-",
            f"{np.mean(own.length):,.1f}" if len(own.length) else "-",
            "yes" if recording.is_complete else "no",
        )
    return table
