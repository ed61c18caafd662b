"""The figures of a study, as PNG: throughput and efficiency over devices, and where time goes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from podrl.runtime.ledger import BUCKETS, OTHER
from podrl.studies.summary import Estimate, PointSummary, lines_of
from podrl.telemetry import plotting

TITLES = {"weak": "Weak scaling: environments grow with the devices", "strong": "Strong scaling: the same environments"}
_BESIDE = 0.02
# One colour for each bucket, the same in every figure; work first, and waiting, which is light, at the end of a bar.
_WAITS = {"wait_params": "#d5d5d5", "wait_rollouts": "#ececec"}
_WORK = [bucket for bucket in (*BUCKETS, OTHER) if bucket not in _WAITS]


def draw_all(summaries: Sequence[PointSummary]) -> dict[str, bytes]:
    """All figures that there is something for, by name."""
    drawn = {"throughput": draw_throughput(summaries)} if summaries else {}
    return drawn | ({"time": draw_time(summaries)} if any(summary.time for summary in summaries) else {})


def draw_throughput(summaries: Sequence[PointSummary]) -> bytes:
    """Throughput, and below it efficiency, over devices: a column for each kind of scaling, a line for each series.

    Lines stand beside each other by a few hundredths, so that their intervals can be told apart.
    """
    from matplotlib.lines import Line2D

    lines = lines_of(summaries)
    scalings = list(dict.fromkeys(scaling for scaling, _ in lines))
    names = list(dict.fromkeys(series for _, series in lines))
    figure = plotting.make_figure(max(5.6 * len(scalings), 6.4), 7.4 + 0.28 * (1 + len(names) // 2))
    panels = figure.subplots(2, len(scalings), sharex=True, sharey="row", squeeze=False)
    handles: dict[str, Any] = {}
    for (scaling, series), line in lines.items():
        place = names.index(series)
        shift = 1 + _BESIDE * (place - (len(names) - 1) / 2)
        colour = plotting.pick_colour("tab10", place % 10)
        handles[series or "measured"] = _draw_line(panels[:, scalings.index(scaling)], line, shift, colour)
    ticks = sorted({summary.devices for summary in summaries})
    for (above, below), scaling in zip(panels.T, scalings, strict=True):
        above.set_title(TITLES[scaling], loc="left", fontsize=12)
        above.set_yscale("log")
        plotting.show_plain_numbers(above.yaxis, above.get_ylim())
        below.axhline(100, linestyle="--", color="0.45", linewidth=1.2)
        below.set_ylim(0, max(110, below.get_ylim()[1]))
        below.set_xlabel("devices", fontsize=12)
        for axes in (above, below):
            axes.set_xscale("log", base=2)
            axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
            axes.minorticks_off()
            plotting.style(axes)
    for axes, label in zip(panels[:, 0], ("env steps per second", "efficiency (% of the ideal)"), strict=True):
        axes.set_ylabel(label, fontsize=12)
    handles["ideal"] = Line2D([], [], color="0.45", linestyle="--", linewidth=1.4)
    if any(summary.predicted for summary in summaries):
        handles["predicted by podrl's planner"] = Line2D([], [], color="0.45", linestyle=":", linewidth=1.4)
    plotting.add_legend(figure, handles, 3 if max(map(len, handles)) < 30 else 2)
    return plotting.encode_figure(figure)


def _draw_line(panels: Sequence[Any], line: Sequence[PointSummary], shift: float, colour: Any) -> Any:
    """A series' rates above, every run, the ideal and the prediction with them, and its efficiency below."""
    above, below = panels
    drawn = _draw_means(above, [(shift * each.devices, each.rate) for each in line], colour)
    for each in line:
        rates = [run.measurement.env_steps_per_second for run in each.runs if run.measurement is not None]
        above.plot([shift * each.devices] * len(rates), rates, ".", color=colour, alpha=0.45, markersize=5)
    if (base := line[0]).base_rate is not None:
        ends = np.array([base.base_devices, line[-1].devices])
        ideal = base.base_rate * ends / base.base_devices
        above.plot(shift * ends, ideal, "--", color=colour, alpha=0.6, linewidth=1.2)
    known = np.array([(shift * each.devices, each.predicted) for each in line if each.predicted is not None])
    above.plot(*known.T.reshape(2, -1), ":", marker="x", color=colour, linewidth=1.6, markersize=6)
    shares = [(shift * each.devices, each.efficiency.scaled(100)) for each in line if each.efficiency is not None]
    _draw_means(below, shares, colour)
    return drawn


def _draw_means(axes: Any, found: Sequence[tuple[float, Estimate]], colour: Any) -> Any:
    """Means, each at its place on the axis, joined by a line, with their intervals where there are any."""
    points = [(x, e.mean, e.mean if e.low is None else e.low, e.mean if e.high is None else e.high) for x, e in found]
    places, means, low, high = np.array(points).T.reshape(4, -1)
    how = {"marker": "o", "markersize": 5, "linewidth": 1.8, "capsize": 4 if np.any(high > low) else 0}
    return axes.errorbar(places, means, yerr=np.maximum([means - low, high - means], 0.0), color=colour, **how)


def draw_time(summaries: Sequence[PointSummary]) -> bytes:
    """Where the threads' time goes: a stacked bar for each point, for the learner and for the actors."""
    summaries = [summary for line in lines_of(summaries).values() for summary in line]
    figure = plotting.make_figure(13.0, max(3.2, 1.6 + 0.34 * len(summaries)))
    threads = [who for who in ("learner", "actors") if any(summary.buckets(who) for summary in summaries)]
    panels = np.atleast_1d(figure.subplots(1, len(threads), sharey=True))
    points = [summary.point for summary in summaries]
    names = [", ".join(filter(None, [each.scaling, each.machines.size, each.series])) for each in points]
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
