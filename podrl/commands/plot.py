"""Draws learning curves from the `metrics.jsonl` of finished or running runs. See `--help`."""

import argparse
from collections.abc import Sequence
from typing import Any

from etils import epath
import numpy as np
from rich.console import Console

from podrl.config.commandline import Parser
from podrl.config.config import check
from podrl.config.paths import absolute
from podrl.ops.intervals import mean_interval
from podrl.runs.curves import X_KEYS, Curve, Ending, average_curves, default_axes, group_curves, read_curve, read_ending
from podrl.runs.published_curves import read_published
from podrl.runtime.tool import run_tool
from podrl.telemetry import plotting

USAGE = """%(prog)s RUN [RUN ...] --out FILE.png [--x env_steps|frames|updates|wall] [--y episode/return]
                 [--beside NAME=FILE.csv,...] [--against KEY]

RUN is a run's folder. Runs of one config and environment are drawn together: their mean, with a band from the lowest to
the highest. --x wall is training time: without compiling and all else that comes before the first update. With
--against the figure shows where the metric ended, over a value of the runs' configs: a dot for each run, and for each
agent a line through the means, with their 95 %% intervals. --beside, which may be given several times, adds the curves
of another program: a file for each of its runs, with env steps and the metric in its first two columns."""
X_LABELS = {
    "env_steps": "environment steps (the agent's decisions)",
    "frames": "emulator frames",
    "updates": "updates of the learner",
}
SIZE_INCHES = (8.0, 4.5)
_LEGEND_WIDTH = 84  # Characters below the figure.
_BESIDE = 0.01  # Between two lines, of the width, so that their intervals can be told apart.


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses `argv`, whose first entry is the program's name, into `runs`, `out`, `x`, `y`, `beside` and `against`.

    Raises:
        ConfigError: on an unknown flag or value.
        SystemExit: with code 0 after showing `--help`.
    """
    parser = Parser(prog=argv[0], usage=USAGE, allow_abbrev=False)
    parser.add_argument("runs", type=absolute, nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument(
        "--out", type=absolute, required=True, help="image to write; its suffix chooses the format (.png, .svg, .pdf)"
    )
    parser.add_argument("--x", choices=sorted(X_KEYS), help="horizontal axis (env_steps; from data sets updates)")
    parser.add_argument("--y", help="metric (episode/return; from data sets evaluate/return)")
    parser.add_argument(
        "--beside", action="append", default=[], metavar="NAME=FILE.csv,...", help="curves of another program"
    )
    parser.add_argument("--against", metavar="KEY", help="a number of the config, such as actors.lag")
    return parser.parse_args(argv[1:])


def draw(groups: Sequence[Sequence[Curve]], x: str, y: str, image_format: str) -> bytes:
    """Draws the figure: a line per group, with a band if it has several runs.

    Args:
        groups: groups made by `group_curves`.
        x: quantity on the horizontal axis, a key of `X_KEYS`.
        y: name of the metric.
        image_format: matplotlib's name of the format, such as `png`.

    Raises:
        ConfigError: if matplotlib is missing, or does not write this format.
    """
    figure = plotting.make_figure(*SIZE_INCHES)
    plotting.check_format(figure, image_format)
    axes = figure.add_subplot()
    unit, x_label = _wall_unit(groups) if x == "wall" else (1.0, X_LABELS[x])
    title, labels = _titles(groups)
    for group, label in zip(groups, labels, strict=True):
        grid, values = average_curves(group)
        shown_x, shown_y = plotting.thin(grid / unit, values.mean(axis=0))
        (line,) = axes.plot(shown_x, shown_y, linewidth=1.8, label=label or None)
        if len(group) > 1:
            low, high = values.min(axis=0), values.max(axis=0)
            axes.fill_between(grid / unit, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    _label(axes, title, x_label, _y_label({curve.window for group in groups for curve in group}, y))
    if any(labels):
        _add_legend(figure, axes)
    _style(axes, engineering=x != "wall")
    return plotting.encode_figure(figure, image_format)


def draw_endings(endings: Sequence[Ending], key: str, y: str, image_format: str) -> bytes:
    """Draws the figure: where runs ended over a value of their configs, a line per agent and environment.

    Args:
        endings: one of each run.
        key: the key of the config.
        y: name of the metric.
        image_format: matplotlib's name of the format, such as `png`.

    Raises:
        ConfigError: if matplotlib is missing, or does not write this format.
    """
    figure = plotting.make_figure(*SIZE_INCHES)
    plotting.check_format(figure, image_format)
    axes = figure.add_subplot()
    env_ids = list(dict.fromkeys(each.env_id for each in endings))
    lines = list(dict.fromkeys((each.agent, each.env_id) for each in endings))
    width = np.ptp([each.setting for each in endings])
    for number, (agent, env_id) in enumerate(lines):
        beside = _BESIDE * width * (number - (len(lines) - 1) / 2)
        line = [each for each in endings if (each.agent, each.env_id) == (agent, env_id)]
        places = sorted({each.setting for each in line})
        samples = [[each.y for each in line if each.setting == place] for place in places]
        means = [float(np.mean(values)) for values in samples]
        intervals = [mean_interval(values) or (mean, mean) for values, mean in zip(samples, means, strict=True)]
        errors = [[mean - low for (low, _), mean in zip(intervals, means, strict=True)]]
        errors += [[high - mean for (_, high), mean in zip(intervals, means, strict=True)]]
        label = agent if len(env_ids) == 1 else f"{agent} on {env_id}"
        shown = [place + beside for place in places]
        bars = axes.errorbar(shown, means, yerr=errors, marker="o", linewidth=1.8, capsize=4, label=label)
        dots = [each.setting + beside for each in line], [each.y for each in line]
        axes.plot(*dots, ".", color=bars[0].get_color(), alpha=0.45)
    title, window = env_ids[0] if len(env_ids) == 1 else "", {each.window for each in endings}
    name, *note = _y_label(window, y).split("\n")
    _label(axes, title, key, "\n".join([f"{name} at the end", *note]))
    _add_legend(figure, axes)
    plotting.style(axes)
    return plotting.encode_figure(figure, image_format)


def _label(axes: Any, title: str, x_label: str, y_label: str) -> None:
    axes.set_title(title, loc="left", fontsize=14)
    axes.set_xlabel(x_label, fontsize=12)
    axes.set_ylabel(y_label, fontsize=12)


def _add_legend(figure: Any, axes: Any) -> None:
    """Puts the legend below the figure, where it hides no curve."""
    handles, labels = axes.get_legend_handles_labels()
    fitting = _LEGEND_WIDTH // (max(map(len, labels)) + 6)
    plotting.add_legend(figure, dict(zip(labels, handles, strict=True)), columns=max(1, min(fitting, len(labels))))


def _style(axes: Any, *, engineering: bool) -> None:
    """Styles axes with a light grid, no box, and numbers such as `20M` on the horizontal axis if `engineering`."""
    plotting.style(axes)
    last = axes.dataLim.x1
    axes.set_xlim(left=-0.01 * last, right=1.01 * last)
    if engineering:
        from matplotlib.ticker import EngFormatter

        axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _titles(groups: Sequence[Sequence[Curve]]) -> tuple[str, list[str]]:
    """Returns the figure's title, shared by all groups, and each group's label: what sets it apart, and its runs."""
    firsts = [group[0] for group in groups]
    if len(groups) == 1:
        title, labels = firsts[0].title, [""]
    elif len({curve.env_id for curve in firsts}) == 1:
        title, labels = firsts[0].env_id, [curve.name for curve in firsts]
    elif len({curve.name for curve in firsts}) == 1:
        title, labels = firsts[0].name, [curve.env_id for curve in firsts]
    else:
        title, labels = "", [curve.title for curve in firsts]
    counts = [f"mean of {len(group)} runs (band: min to max)" if len(group) > 1 else "" for group in groups]
    return title, [", ".join(filter(None, parts)) for parts in zip(labels, counts, strict=True)]


def _wall_unit(groups: Sequence[Sequence[Curve]]) -> tuple[float, str]:
    """Returns the seconds of the unit that suits the longest run, hours or minutes, and the axis label."""
    longest_s = max(curve.x[-1] for group in groups for curve in group)
    unit_s, name = (3600.0, "hours") if longest_s >= 3600 else (60.0, "minutes")
    return unit_s, f"training time ({name}, from the first update of each start)"


def _y_label(windows: set[int], y: str) -> str:
    """Returns the metric's label with its unit, if the metric is known; `windows` are those of all runs."""
    window = f"mean of the newest {min(windows)} episodes" if len(windows) == 1 else "mean of the newest episodes"
    known = {
        "episode/return": f"episode return\n({window})",
        "evaluate/return": "return in evaluation (mean)",
        "evaluate/human_normalised": "human-normalised score in evaluation\n(0 random play, 1 human)",
        "episode/length": f"episode length in env steps\n({window})",
        "env_steps_per_second": "env steps per second",
        "frames_per_second": "frames per second",
        "lag/mean": "policy lag (updates)",
        "policy/entropy": "policy entropy (nats)",
    }
    if y.startswith("time/") and y.count("/") == 2:
        return f"{y} (fraction of the threads' time)"
    return known.get(y, f"{y}\n({window})" if y.startswith("episode/info/") else y)


def run(argv: list[str]) -> None:
    """Reads the runs, draws the figure and writes it."""
    command = parse(argv)
    out = epath.Path(command.out)
    check(out.parent.is_dir(), f"--out={command.out}: there is no such folder.")
    check(bool(out.suffix), f"--out={command.out} needs a suffix that chooses the format, such as .png.")
    default_x, default_y = default_axes(command.runs)
    x, y = command.x or default_x, command.y or default_y
    for flag, given in (("--against", command.against), (f"--x={x}", x != "env_steps")):
        check(not (command.beside and given), f"--beside: its curves are over env steps, so it takes no {flag}.")
    if command.against:
        endings = [read_ending(run, command.against, y) for run in command.runs]
        out.write_bytes(draw_endings(endings, command.against, y, out.suffix[1:]))
    else:
        read = [read_curve(run, x, y) for run in command.runs]
        published = [curve for argument in command.beside for curve in read_published(argument, read)]
        groups = group_curves([*read, *published])
        moves = x == "wall" or any(curve.x[-1] > 0 for group in groups for curve in group)
        check(moves, f"--x={x}: it is 0 throughout, as in runs from a data set. Use --x updates.")
        out.write_bytes(draw(groups, x, y, out.suffix[1:]))
    Console(highlight=False).print(f"Drew it into {command.out}.", soft_wrap=True, markup=False)


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit code: 0 done, 2 a mistake in the command."""
    return run_tool("plot", lambda: run(argv))
