"""The figures of a study, as PNG; here those over the number of devices, throughput and efficiency."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from podrl.studies.summary import Estimate, PointSummary, lines_of
from podrl.studies.time_figures import draw_learning, draw_time
from podrl.telemetry import plotting

TITLES = {"weak": "Weak scaling: environments grow with the devices", "strong": "Strong scaling: the same environments"}
_PANEL_INCHES = (5.6, 4.4)
_BESIDE = 0.02


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
    return plotting.encode_figure(figure)


def _draw_means(axes: Any, devices: Sequence[float], found: Sequence[Estimate], colour: str, label: str) -> None:
    """Means joined by a line, with their intervals where there are any."""
    means = np.array([each.mean for each in found])
    low = np.array([each.mean if each.low is None else each.low for each in found])
    high = np.array([each.mean if each.high is None else each.high for each in found])
    known = any(each.low is not None for each in found)
    errors = np.maximum([means - low, high - means], 0.0) if known else None
    axes.errorbar(
        devices, means, yerr=errors, color=colour, label=label, marker="o", markersize=5, linewidth=1.8, capsize=4
    )


def _percent(found: Estimate) -> Estimate:
    low, high = (None if value is None else 100 * value for value in (found.low, found.high))
    return Estimate(mean=100 * found.mean, low=low, high=high)


def _plain_numbers(axis: Any, limits: tuple[float, float]) -> None:
    """Ticks such as 5,000 and 20,000 on a logarithmic axis, also where it spans less than a decade."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    decades = np.log10(limits[1] / limits[0])
    fine = (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9)
    some = (1, 1.5, 2, 3, 4, 5, 6, 8) if decades < 0.7 else (1, 2, 5) if decades < 3.5 else (1,)
    steps = fine if decades < 0.35 else some
    low, high = int(np.floor(np.log10(limits[0]))), int(np.ceil(np.log10(limits[1])))
    ticks = [step * 10.0**power for power in range(low, high + 1) for step in steps]
    axis.set_major_locator(FixedLocator([tick for tick in ticks if limits[0] <= tick <= limits[1]]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 10 else f"{value:g}"))


def _colours(count: int) -> list[Any]:
    import matplotlib as mpl

    return [mpl.colormaps["tab10"](index % 10) for index in range(count)]
