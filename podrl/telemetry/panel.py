"""Formats a row of metrics for people: a panel for a terminal, a line for a log file.

Pure functions from numbers to text; `display.py` decides what is shown when. Row keys are those of `metrics.jsonl`;
values that are absent or not finite become a dash.
"""

from collections.abc import Mapping
import math
from typing import Any, NamedTuple

from rich import box
from rich.console import Group
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from podrl.runtime.tables import compact
from podrl.telemetry.rates import SAMPLES_KEY
from podrl.telemetry.readable import duration, short_number, short_rate

PANEL_WIDTH = 100  # Most columns.
_MOST_NUMBERS = 4  # Of `info`, in a line of a log file.
_INFO = "episode/info/"
_THREADS = ("learner", "actors", "data")  # Whose time rows have shares of.
_LOSS = "loss/total"
LOWEST, HIGHEST = "seeds/return_lowest", "seeds/return_highest"  # Of the mean returns of several seeds.


class Progress(NamedTuple):
    """Progress of a run: its length, seconds since it began, estimated seconds left, and what counts its length."""

    total: int
    elapsed_s: float
    left_s: float | None
    counts: str = "env_steps"  # Or `learner_steps`, its updates.


def make_panel(
    title: str, workdir: str, row: Mapping[str, Any], progress: Progress, phase: str | None, width: int
) -> Panel:
    """Makes the panel below the log lines.

    Args:
        title: names the run.
        workdir: the run's folder.
        row: the newest metrics; empty before the first.
        progress: progress of the run.
        phase: name of the current phase, such as compiling; None while the run trains.
        width: columns of the panel.
    """
    lines: list[Any] = [] if phase is None else [Text(phase, style="yellow")]
    if row:
        lines += [_progress_bar(row, progress), _numbers(row, progress)]
    lines.append(_details(row, workdir))
    return Panel(
        Group(*lines),
        title=Text(title, style="bold"),
        title_align="left",
        box=box.ROUNDED,
        border_style="cyan",
        width=width,
    )


def plain_line(row: Mapping[str, Any], progress: Progress) -> str:
    """Returns a row of metrics as one line for a log file."""
    parts = [
        f"update {row['learner_steps']:,}",
        *_counts_and_rates(row, progress),
    ]
    for thread in _THREADS:
        largest = _largest_shares(row, thread)[:3]
        if largest:
            parts.append(f"{thread}: " + " ".join(f"{bucket} {share:.0%}" for bucket, share in largest))
    parts.append(f"eta {_time_left(progress.left_s)}")
    return "  ".join(parts)


def _counts_and_rates(row: Mapping[str, Any], progress: Progress) -> list[str]:
    """Returns what a line of a log file says of counts, rates and episodes."""
    if SAMPLES_KEY in row:
        return [f"({_percent(row, progress)})", f"{_rate(row, SAMPLES_KEY)} samples/s", f"loss {_value(row, _LOSS)}"]
    return [
        f"env_steps {row['env_steps']:,} ({_percent(row, progress)})",
        f"frames {row['frames']:,}",
        f"{_rate(row, 'env_steps_per_second')} steps/s",
        f"{_rate(row, 'frames_per_second')} frames/s",
        f"return {_value(row, 'episode/return')}{_spread(row)}",
        *_info_numbers(row)[:_MOST_NUMBERS],
        f"lag {_lag(row)}",
    ]


def _progress_bar(row: Mapping[str, Any], progress: Progress) -> Table:
    """Makes the progress bar, with the time before and after now."""
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True)
    total, done = progress.total, row[progress.counts]
    bar = ProgressBar(total=total, completed=min(done, total), complete_style="cyan", finished_style="green")
    times = f"{_percent(row, progress)}  {duration(progress.elapsed_s)} elapsed  {_time_left(progress.left_s)} left"
    grid.add_row(bar, Text(times))
    return grid


def _numbers(row: Mapping[str, Any], progress: Progress) -> Table:
    """Makes the table of counts, rates and episodes."""
    grid = Table.grid(padding=(0, 2))
    for style, width in (("dim", 9), ("bold", 15), ("green", 16), ("dim", 8), ("bold", None)):
        grid.add_column(style=style, min_width=width, no_wrap=True)
    steps = f"{compact(row[progress.counts])} / {compact(progress.total)}"
    if SAMPLES_KEY in row:
        loss, norm = _value(row, _LOSS), _value(row, "grad/norm")
        cells = ("updates", steps, f"{_rate(row, SAMPLES_KEY)} samples/s", "loss", f"{loss}  gradient {norm}")
        grid.add_row(*map(Text, cells))
        return grid
    best, length = _value(row, "episode/return_max"), _value(row, "episode/length")
    count = _number(row, "episode/count")
    episodes = "-" if count is None else f"{count:,.0f}"
    returns = f"{_value(row, 'episode/return')}{_spread(row) or f' (max {best})'}"
    rows = (
        ("env steps", steps, f"{_rate(row, 'env_steps_per_second')} steps/s", "updates", f"{row['learner_steps']:,}"),
        ("frames", compact(row["frames"]), f"{_rate(row, 'frames_per_second')} frames/s", "lag", _lag(row)),
        ("return", returns, f"length {length}", "episodes", episodes),
    )
    for cells in rows:
        grid.add_row(*map(Text, cells))
    return grid


def _details(row: Mapping[str, Any], workdir: str) -> Table:
    """Makes the table of numbers of `info`, of where time goes and where files go."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", width=9)
    grid.add_column()
    for thread in _THREADS:
        spent = _largest_shares(row, thread)
        if spent:
            grid.add_row(thread, _coloured(spent))
    if (size := _number(row, "replay/size")) is not None:
        kept = f"{size:.0f} in the ring  age {_value(row, 'replay/age')}  learned {_value(row, 'replay/ratio')} times"
        if "replay/priority_mean" in row:
            kept += f"  priority {_value(row, 'replay/priority_mean')} (max {_value(row, 'replay/priority_max')})"
        grid.add_row("replay", Text(kept))
    if _number(row, "remote/bytes_in") is not None:
        grid.add_row("workers", Text(_remote_traffic(row), no_wrap=True, overflow="ellipsis"))
    if numbers := _info_numbers(row):
        grid.add_row("info", Text("  ".join(numbers), no_wrap=True, overflow="ellipsis"))
    grid.add_row("workdir", Text(workdir, overflow="fold"))
    return grid


def _info_numbers(row: Mapping[str, Any]) -> list[str]:
    """Returns the mean numbers of episodes' `info` as texts."""
    return [f"{key.removeprefix(_INFO)} {_value(row, key)}" for key in row if key.startswith(_INFO)]


def _remote_traffic(row: Mapping[str, Any]) -> str:
    """Returns what crossed the wire to environment workers so far."""
    directions = (
        f"{name} {(_number(row, f'remote/bytes_{name}') or 0) / 1e6:,.1f} MB in "
        f"{compact(int(_number(row, f'remote/messages_{name}') or 0))} messages"
        for name in ("in", "out")
    )
    return f"{'  '.join(directions)}  refused {_number(row, 'remote/refused') or 0:,.0f}"


def _coloured(spent: list[tuple[str, float]]) -> Text:
    """Returns the shares as text, with waits in yellow and unexplained time in grey."""
    text = Text(no_wrap=True, overflow="ellipsis")
    for bucket, share in spent:
        style = "yellow" if bucket.startswith("wait") else "dim" if bucket == "other" else "green"
        text.append(f"{bucket} {share:.0%}  ", style=style)
    return text


def _largest_shares(row: Mapping[str, Any], thread: str) -> list[tuple[str, float]]:
    """Returns (bucket, fraction) of `time/<thread>/...` from half a percent up, the largest first."""
    prefix = f"time/{thread}/"
    spent = [(key.removeprefix(prefix), _number(row, key) or 0.0) for key in row if key.startswith(prefix)]
    return sorted((item for item in spent if item[1] >= 0.005), key=lambda item: -item[1])


def _number(row: Mapping[str, Any], key: str) -> float | None:
    """Returns a value of the row; None if it is absent or not finite."""
    value = row.get(key)
    return value if value is not None and math.isfinite(value) else None


def _value(row: Mapping[str, Any], key: str) -> str:
    """Returns a value of the row as text, or a dash."""
    value = _number(row, key)
    return "-" if value is None else short_number(value)


def _spread(row: Mapping[str, Any]) -> str:
    """Returns the lowest and the highest return of several seeds; empty for one."""
    if LOWEST not in row:
        return ""
    return f" ({_value(row, LOWEST)} to {_value(row, HIGHEST)} by seed)"


def _rate(row: Mapping[str, Any], key: str) -> str:
    """Returns a rate of the row as text, or a dash."""
    value = _number(row, key)
    return "-" if value is None else short_rate(value)


def _lag(row: Mapping[str, Any]) -> str:
    """Returns the mean policy lag in updates, and the largest if it differs."""
    mean, most = _number(row, "lag/mean"), _number(row, "lag/max")
    if mean is None:
        return "-"
    return f"{mean:.3g}" if most is None or most == mean else f"{mean:.3g} (max {most:.3g})"


def _percent(row: Mapping[str, Any], progress: Progress) -> str:
    """Returns how much of the run is done."""
    return f"{min(row[progress.counts] / progress.total, 1.0):.1%}"


def _time_left(seconds: float | None) -> str:
    """Returns a duration, or a dash if no rate is known yet."""
    return "-" if seconds is None else duration(seconds)
