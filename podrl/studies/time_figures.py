"""The figures of a study over time: where the threads' time goes, and how runs learn in it."""

from collections.abc import Sequence
import textwrap
from typing import Any

import numpy as np

from podrl.runtime.ledger import OTHER
from podrl.studies.summary import PointSummary, RunRecord, lines_of
from podrl.telemetry import plotting

_PANEL_INCHES = (5.6, 3.7)
_MAX_PANELS = 12  # of learning curves
_TITLE_WIDTH = 52  # characters of a line
_GRID_POINTS = 200
# One colour for each bucket, the same in every figure; work first, and waiting, which is light, at the end of a bar.
_BUCKET_COLOURS = {
    "env": "#4c72b0",
    "act": "#dd8452",
    "learn": "#c44e52",
    "transfer": "#8172b3",
    "publish": "#937860",
    "log": "#da8bc3",
    "evaluate": "#ccb974",
    "checkpoint": "#64b5cd",
    "compile": "#55a868",
    OTHER: "#8c8c8c",
    "wait_params": "#d5d5d5",
    "wait_rollouts": "#ececec",
}


def draw_time(summaries: Sequence[PointSummary]) -> bytes:
    """Where the threads' time goes: a stacked bar for each point, for the learner and for the actors."""
    summaries = [summary for line in lines_of(summaries).values() for summary in line]
    height = 1.6 + 0.34 * len(summaries)
    figure = plotting.make_figure(13.0, max(3.2, height))
    threads = [who for who in ("learner", "actors") if any(_buckets(summary, who) for summary in summaries)]
    panels = np.atleast_1d(figure.subplots(1, len(threads), sharey=True))
    names = [_bar_name(summary) for summary in summaries]
    shown: dict[str, Any] = {}
    for who, axes in zip(threads, panels, strict=True):
        left = np.zeros(len(summaries))
        for bucket in _BUCKET_COLOURS:
            shares = np.array([100 * _buckets(summary, who).get(bucket, 0.0) for summary in summaries])
            if shares.max(initial=0.0) >= 0.5:
                colour = _BUCKET_COLOURS[bucket]
                bars = axes.barh(names, shares, left=left, color=colour, height=0.72, edgecolor="white", linewidth=0.5)
                shown[bucket] = bars
            left += shares
        plotting.style(axes)
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, 100)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel("% of the thread's time" if who == "learner" else "% of the actor threads' time", fontsize=12)
        axes.set_title("learner" if who == "learner" else "actors", loc="left", fontsize=13)
    ordered = [bucket for bucket in _BUCKET_COLOURS if bucket in shown]
    bars = [shown[bucket] for bucket in ordered]
    figure.legend(bars, ordered, loc="outside lower center", ncols=len(ordered), frameon=False, fontsize=11)
    return plotting.encode_figure(figure)


def draw_learning(summaries: Sequence[PointSummary]) -> bytes:
    """Return against the time of training: a panel for each series, a line for each number of devices."""
    lines = list(lines_of(summaries).items())[:_MAX_PANELS]
    columns = min(len(lines), 2 if len(lines) in (2, 4) else 3)
    rows = -(-len(lines) // columns)
    width, height = _PANEL_INCHES
    figure = plotting.make_figure(width * max(columns, 1), height * rows + 0.5)
    panels = np.atleast_1d(figure.subplots(rows, columns, sharey=True)).flatten()
    devices = sorted({summary.devices for summary in summaries})
    colours = dict(zip(devices, _gradient(len(devices)), strict=True))
    handles: dict[str, Any] = {}
    for place, (((scaling, series), line), axes) in enumerate(zip(lines, panels, strict=False)):
        for summary in line:
            drawn = _draw_curves(axes, summary.runs, colours[summary.devices])
            if drawn is not None:
                handles[f"{summary.devices} device{'s' if summary.devices > 1 else ''}"] = drawn
        plotting.style(axes)
        axes.set_xlim(left=0)
        title = f"{scaling} scaling{f', {series}' if series else ''}"
        axes.set_title(textwrap.fill(title, _TITLE_WIDTH), loc="left", fontsize=11)
        axes.set_xlabel("seconds of training, compilation not counted", fontsize=11)
        if place % columns == 0:
            axes.set_ylabel("episode return (newest episodes)", fontsize=11)
    for axes in panels[len(lines) :]:
        axes.set_visible(False)
    ordered = sorted(handles, key=lambda label: int(label.split()[0]))
    figure.legend([handles[label] for label in ordered], ordered, loc="outside lower center", ncols=8, frameon=False)
    return plotting.encode_figure(figure)


def _draw_curves(axes: Any, runs: Sequence[RunRecord], colour: Any) -> Any:
    """The mean of a point's learning curves over the time that all of them have, with a band from min to max."""
    curves = [run.curve for run in runs if len(run.curve.seconds) > 1]
    if not curves:
        return None
    start, end = max(curve.seconds[0] for curve in curves), min(curve.seconds[-1] for curve in curves)
    if start >= end:
        return None
    grid = np.linspace(start, end, _GRID_POINTS)
    values = np.stack([np.interp(grid, curve.seconds, curve.returns) for curve in curves])
    (line,) = axes.plot(grid, values.mean(axis=0), color=colour, linewidth=1.8)
    if len(curves) > 1:
        axes.fill_between(grid, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.18, linewidth=0)
    return line


def _buckets(summary: PointSummary, who: str) -> dict[str, float]:
    return {name.partition("/")[2]: share for name, share in summary.time.items() if name.partition("/")[0] == who}


def _bar_name(summary: PointSummary) -> str:
    point = summary.each.point
    machines = f"{point.machines.processes} x {point.machines.devices_per_process}"
    return ", ".join(filter(None, [point.scaling, machines, point.series]))


def _gradient(count: int) -> list[Any]:
    """From light to dark, for what has an order."""
    import matplotlib as mpl

    return [mpl.colormaps["viridis"](0.8 - 0.75 * index / max(count - 1, 1)) for index in range(count)]
