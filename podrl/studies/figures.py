"""The figures of a study, as PNG: throughput and efficiency over devices, and where time goes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from podrl.runtime.ledger import BUCKETS, OTHER
from podrl.studies.summary import Estimate, PointSummary, lines_of
from podrl.telemetry import plotting

TITLES = {"weak": "Weak scaling: environments grow with the devices", "strong": "Strong scaling: the same environments"}
_PANEL_INCHES = (5.6, 4.4)
_BESIDE = 0.02
# One colour for each bucket, the same in every figure; work first, and waiting, which is light, at the end of a bar.
_WAITS = {"wait_params": "#d5d5d5", "wait_rollouts": "#ececec"}
_WORK = [bucket for bucket in (*BUCKETS, OTHER) if bucket not in _WAITS]


def draw_all(summaries: Sequence[PointSummary]) -> dict[str, bytes]:
    """All figures that there is something for, by name."""
    drawn = {"throughput": draw_throughput(summaries), "efficiency": draw_efficiency(summaries)}
    if any(summary.time for summary in summaries):
        drawn["time"] = draw_time(summaries)
    return drawn


def draw_throughput(summaries: Sequence[PointSummary]) -> bytes:
    """Env steps per second against devices: every run, the means with their intervals, the ideal, the prediction."""

    def fill(axes: Any, line: Sequence[PointSummary], colour: str, label: str, shift: float) -> None:
        _draw_means(axes, [(shift * summary.devices, summary.rate) for summary in line], colour, label)
        for summary in line:
            rates = [run.measurement.env_steps_per_second for run in summary.runs if run.measurement is not None]
            axes.plot([shift * summary.devices] * len(rates), rates, ".", color=colour, alpha=0.45, markersize=5)
        base = line[0]
        if base.base_rate is not None:
            ends = np.array([base.base_devices, line[-1].devices])
            ideal = base.base_rate * ends / base.base_devices
            axes.plot(shift * ends, ideal, "--", color=colour, alpha=0.6, linewidth=1.2)
        known = np.array([(shift * each.devices, each.predicted) for each in line if each.predicted is not None])
        axes.plot(*known.T.reshape(2, -1), ":", marker="x", color=colour, linewidth=1.6, markersize=6)

    def finish(axes: Any) -> None:
        axes.set_yscale("log")
        axes.set_ylabel("env steps per second", fontsize=12)
        plotting.show_plain_numbers(axes.yaxis, axes.get_ylim())

    extra = {"ideal": "--"} | ({"predicted by podrl's planner": ":"} if any(s.predicted for s in summaries) else {})
    return _draw_panels(summaries, fill, finish, extra)


def draw_efficiency(summaries: Sequence[PointSummary]) -> bytes:
    """Efficiency against devices: the fraction of the ideal that was reached."""

    def fill(axes: Any, line: Sequence[PointSummary], colour: str, label: str, shift: float) -> None:
        known = [(shift * each.devices, each.efficiency.scaled(100)) for each in line if each.efficiency is not None]
        _draw_means(axes, known, colour, label)

    def finish(axes: Any) -> None:
        axes.axhline(100, linestyle="--", color="0.45", linewidth=1.2)
        axes.set_ylim(0, max(110, axes.get_ylim()[1]))
        axes.set_ylabel("efficiency (% of the ideal)", fontsize=12)

    return _draw_panels(summaries, fill, finish, {"ideal": "--"})


def draw_time(summaries: Sequence[PointSummary]) -> bytes:
    """Where the threads' time goes: a stacked bar for each point, for the learner and for the actors."""
    summaries = [summary for line in lines_of(summaries).values() for summary in line]
    figure = plotting.make_figure(13.0, max(3.2, 1.6 + 0.34 * len(summaries)))
    threads = [who for who in ("learner", "actors") if any(summary.buckets(who) for summary in summaries)]
    panels = np.atleast_1d(figure.subplots(1, len(threads), sharey=True))
    names = [_bar_name(summary) for summary in summaries]
    colours = {name: plotting.pick_colour("tab20", place) for place, name in enumerate(_WORK)} | _WAITS
    shown: dict[str, Any] = {}
    for who, axes in zip(threads, panels, strict=True):
        left = np.zeros(len(summaries))
        for bucket, colour in colours.items():
            shares = np.array([100 * summary.buckets(who).get(bucket, 0.0) for summary in summaries])
            if shares.max(initial=0.0) >= 0.5:
                how = {"color": colour, "height": 0.72, "edgecolor": "white", "linewidth": 0.5}
                shown[bucket] = axes.barh(names, shares, left=left, **how)
            left += shares
        plotting.style(axes)
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, 100)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel("% of the thread's time" if who == "learner" else "% of the threads' time", fontsize=12)
        axes.set_title(who, loc="left", fontsize=13)
    plotting.add_legend(figure, {bucket: shown[bucket] for bucket in colours if bucket in shown}, len(shown))
    return plotting.encode_figure(figure)


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

    lines = lines_of(summaries)
    scalings = list(dict.fromkeys(scaling for scaling, _ in lines))
    names = list(dict.fromkeys(series for _, series in lines))
    colours = {name: plotting.pick_colour("tab10", place % 10) for place, name in enumerate(names)}
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
    handles: dict[str, Any] = {}
    for axes in panels:
        finish(axes)
        axes.label_outer()
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    for label, line_style in extra.items():
        handles[label] = Line2D([], [], color="0.45", linestyle=line_style, linewidth=1.4)
    plotting.add_legend(figure, handles, 3 if max(map(len, handles)) < 30 else 2)
    return plotting.encode_figure(figure)


def _draw_means(axes: Any, found: Sequence[tuple[float, Estimate]], colour: str, label: str) -> None:
    """Means, each at its place on the axis, joined by a line, with their intervals where there are any."""
    points = [(x, e.mean, e.mean if e.low is None else e.low, e.mean if e.high is None else e.high) for x, e in found]
    places, means, low, high = np.array(points).T.reshape(4, -1)
    how = {"marker": "o", "markersize": 5, "linewidth": 1.8, "capsize": 4 if np.any(high > low) else 0}
    axes.errorbar(places, means, yerr=np.maximum([means - low, high - means], 0.0), color=colour, label=label, **how)


def _bar_name(summary: PointSummary) -> str:
    point = summary.point
    machines = f"{point.machines.processes} x {point.machines.devices_per_process}"
    return ", ".join(filter(None, [point.scaling, machines, point.series]))
