"""The figures of a study, as PNG: throughput, efficiency, where the time goes, and learning."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from podrl import plotting
from podrl.ledger import OTHER
from podrl.study.summary import Estimate, PointSummary, RunRecord

TITLES = {"weak": "Weak scaling: environments grow with the devices", "strong": "Strong scaling: the same environments"}
_PANEL_INCHES = (5.6, 4.4)
_MAX_PANELS = 12  # of learning curves
_GRID_POINTS = 200
_BESIDE = 0.02
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


def draw_all(summaries: Sequence[PointSummary]) -> dict[str, bytes]:
    """All figures that there is something for, by name.

    Raises:
        ConfigError: if matplotlib is missing.
    """
    drawn = {"throughput": draw_throughput(summaries), "efficiency": draw_efficiency(summaries)}
    if any(summary.time for summary in summaries):
        drawn["time"] = draw_time(summaries)
    if any(run.curve.returns for summary in summaries for run in summary.runs):
        drawn["learning"] = draw_learning(summaries)
    return drawn


def draw_throughput(summaries: Sequence[PointSummary]) -> bytes:
    """Env steps per second against devices: every run, the means with their intervals, the ideal, the prediction."""

    def fill(axes: Any, line: Sequence[PointSummary], colour: str, label: str, shift: float) -> None:
        devices = [shift * summary.devices for summary in line]
        _draw_means(axes, devices, [summary.rate for summary in line], colour, label)
        for summary in line:
            rates = [run.measurement.env_steps_per_second for run in summary.runs if run.measurement is not None]
            axes.plot([shift * summary.devices] * len(rates), rates, ".", color=colour, alpha=0.45, markersize=5)
        base = line[0]
        if base.base_rate is not None:
            ends = np.array([base.base_devices, line[-1].devices])
            ideal = base.base_rate * ends / base.base_devices
            axes.plot(shift * ends, ideal, "--", color=colour, alpha=0.6, linewidth=1.2)
        known = [summary for summary in line if summary.predicted is not None]
        if known:
            places, values = [shift * each.devices for each in known], [each.predicted for each in known]
            axes.plot(places, values, ":", marker="x", color=colour, linewidth=1.6, markersize=6)

    def finish(axes: Any) -> None:
        axes.set_yscale("log")
        axes.set_ylabel("env steps per second", fontsize=12)
        _plain_numbers(axes.yaxis, axes.get_ylim())

    extra = {"ideal": "--"} | ({"predicted by podrl's planner": ":"} if any(s.predicted for s in summaries) else {})
    return _draw_panels(summaries, fill, finish, extra)


def draw_efficiency(summaries: Sequence[PointSummary]) -> bytes:
    """Efficiency against devices: the fraction of the ideal that was reached."""

    def fill(axes: Any, line: Sequence[PointSummary], colour: str, label: str, shift: float) -> None:
        known = [(shift * summary.devices, summary.efficiency) for summary in line if summary.efficiency is not None]
        percents = [_percent(efficiency) for _, efficiency in known]
        _draw_means(axes, [devices for devices, _ in known], percents, colour, label)

    def finish(axes: Any) -> None:
        axes.axhline(100, linestyle="--", color="0.45", linewidth=1.2)
        axes.set_ylim(0, max(110, axes.get_ylim()[1]))
        axes.set_ylabel("efficiency (% of the ideal)", fontsize=12)

    return _draw_panels(summaries, fill, finish, {"ideal": "--"})


def draw_time(summaries: Sequence[PointSummary]) -> bytes:
    """Where the threads' time goes: a stacked bar for each point, for the learner and for the actors."""
    summaries = [summary for line in _lines(summaries).values() for summary in line]
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
        axes.invert_yaxis() if who == threads[0] else None
        axes.set_xlabel("% of the thread's time" if who == "learner" else "% of the actor threads' time", fontsize=12)
        axes.set_title("learner" if who == "learner" else "actors", loc="left", fontsize=13)
    ordered = [bucket for bucket in _BUCKET_COLOURS if bucket in shown]
    bars = [shown[bucket] for bucket in ordered]
    figure.legend(bars, ordered, loc="outside lower center", ncols=len(ordered), frameon=False, fontsize=11)
    return plotting.encode(figure)


def draw_learning(summaries: Sequence[PointSummary]) -> bytes:
    """Return against the time of training: a panel for each series, a line for each number of devices."""
    lines = list(_lines(summaries).items())[:_MAX_PANELS]
    columns = min(len(lines), 2 if len(lines) in (2, 4) else 3)
    rows = -(-len(lines) // columns)
    width, height = _PANEL_INCHES
    figure = plotting.make_figure(width * max(columns, 1), height * 0.85 * rows + 0.5)
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
        axes.set_title(f"{scaling}{f', {series}' if series else ''}", loc="left", fontsize=12)
        axes.set_xlabel("seconds of training, compilation not counted", fontsize=11)
        if place % columns == 0:
            axes.set_ylabel("episode return (newest episodes)", fontsize=11)
    for axes in panels[len(lines) :]:
        axes.set_visible(False)
    ordered = sorted(handles, key=lambda label: int(label.split()[0]))
    figure.legend([handles[label] for label in ordered], ordered, loc="outside lower center", ncols=8, frameon=False)
    return plotting.encode(figure)


def _draw_panels(
    summaries: Sequence[PointSummary],
    fill: Callable[[Any, Sequence[PointSummary], str, str, float], None],
    finish: Callable[[Any], None],
    extra: Mapping[str, Any],
) -> bytes:
    """A panel for each kind of scaling, with a line for each series, over the number of devices.

    Lines stand beside each other by a few hundredths, so that their intervals can be told apart.
    """
    from matplotlib.lines import Line2D

    lines = _lines(summaries)
    scalings = list(dict.fromkeys(scaling for scaling, _ in lines))
    names = list(dict.fromkeys(series for _, series in lines))
    colours = dict(zip(names, _colours(len(names)), strict=True))
    width, height = _PANEL_INCHES
    figure = plotting.make_figure(max(width * len(scalings), 6.4), height + 0.28 * (1 + len(names) // 2))
    panels = np.atleast_1d(figure.subplots(1, len(scalings), sharey=True))
    for scaling, axes in zip(scalings, panels, strict=True):
        for (kind, series), line in lines.items():
            if kind == scaling:
                shift = 1 + _BESIDE * (names.index(series) - (len(names) - 1) / 2)
                fill(axes, line, colours[series], series or "measured", shift)
        axes.set_xscale("log", base=2)
        ticks = sorted({summary.devices for summary in summaries})
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("devices", fontsize=12)
        axes.set_title(TITLES[scaling], loc="left", fontsize=12)
        plotting.style(axes)
    for axes in panels:
        finish(axes)
    for axes in panels[1:]:
        axes.set_ylabel("")
    handles, labels = [], []
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if label not in labels:
                handles.append(handle)
                labels.append(label)
    for label, line_style in extra.items():
        handles.append(Line2D([], [], color="0.45", linestyle=line_style, linewidth=1.4))
        labels.append(label)
    columns = 3 if max(map(len, labels)) < 30 else 2
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=11)
    return plotting.encode(figure)


def _draw_means(axes: Any, devices: Sequence[float], found: Sequence[Estimate], colour: str, label: str) -> None:
    """Means joined by a line, with their intervals where there are any."""
    means = np.array([each.mean for each in found])
    low = np.array([each.mean if each.low is None else each.low for each in found])
    high = np.array([each.mean if each.high is None else each.high for each in found])
    errors = np.maximum([means - low, high - means], 0.0) if len(found) else None
    axes.errorbar(
        devices, means, yerr=errors, color=colour, label=label, marker="o", markersize=5, linewidth=1.8, capsize=4
    )


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


def _lines(summaries: Sequence[PointSummary]) -> dict[tuple[str, str], list[PointSummary]]:
    """Points by scaling and series, each line from few devices to many."""
    lines: dict[tuple[str, str], list[PointSummary]] = {}
    for summary in summaries:
        lines.setdefault((summary.each.point.scaling, summary.series), []).append(summary)
    return {key: sorted(line, key=lambda summary: summary.devices) for key, line in lines.items()}


def _buckets(summary: PointSummary, who: str) -> dict[str, float]:
    return {name.partition("/")[2]: share for name, share in summary.time.items() if name.partition("/")[0] == who}


def _bar_name(summary: PointSummary) -> str:
    point = summary.each.point
    machines = f"{point.machines.processes} x {point.machines.devices_per_process}"
    return ", ".join(filter(None, [point.scaling, machines, point.series]))


def _percent(found: Estimate) -> Estimate:
    low, high = (None if value is None else 100 * value for value in (found.low, found.high))
    return Estimate(mean=100 * found.mean, low=low, high=high)


def _plain_numbers(axis: Any, limits: tuple[float, float]) -> None:
    """Ticks such as 5,000 and 20,000 on a logarithmic axis, also where it spans less than a decade."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    decades = np.log10(limits[1] / limits[0])
    steps = (1, 1.5, 2, 3, 4, 5, 6, 8) if decades < 0.7 else (1, 2, 5) if decades < 2.5 else (1,)
    low, high = int(np.floor(np.log10(limits[0]))), int(np.ceil(np.log10(limits[1])))
    ticks = [step * 10.0**power for power in range(low, high + 1) for step in steps]
    axis.set_major_locator(FixedLocator([tick for tick in ticks if limits[0] <= tick <= limits[1]]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 10 else f"{value:g}"))


def _colours(count: int) -> list[Any]:
    import matplotlib as mpl

    return [mpl.colormaps["tab10"](index % 10) for index in range(count)]


def _gradient(count: int) -> list[Any]:
    """From light to dark, for what has an order."""
    import matplotlib as mpl

    return [mpl.colormaps["viridis"](0.9 - 0.85 * index / max(count - 1, 1)) for index in range(count)]
