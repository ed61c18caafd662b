"""The figures of a suite, as PNG: statistics over all games, performance profiles, and each game."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from podrl.studies.suite_statistics import (
    AGGREGATES,
    Games,
    bootstrap_interval,
    estimate_over_games,
    performance_profile,
)
from podrl.telemetry import plotting

_STEPS = 201  # Thresholds of a profile.
_COLOURS = 256  # Of a picture: with few, thin lines take the colours of others.
_WIDE = 20.0  # Times the reference: above, the axis is logarithmic.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contender:
    """Normalised scores of a suite or of a publication, on games that all contenders have."""

    name: str
    scores: Mapping[str, np.ndarray]  # [seeds] by game
    is_published: bool = False

    @property
    def games(self) -> Games:
        """The same, in order."""
        return list(self.scores.values())


def draw_suite(contenders: Sequence[Contender], scale: str) -> dict[str, bytes]:
    """All figures, by name; none without scores. `scale` is what the axes of scores say."""
    if not contenders or not contenders[0].scores:
        return {}
    return {
        "aggregates": _draw_aggregates(contenders, scale),
        "profile": _draw_profile(contenders, scale),
        "games": _draw_games(contenders, scale),
    }


def _draw_aggregates(contenders: Sequence[Contender], scale: str) -> bytes:
    """A panel for each statistic, a row for each contender: a bar for the interval, a stroke for the estimate."""
    figure = plotting.make_figure(13.0, 1.5 + 0.5 * len(contenders))
    panels = figure.subplots(1, len(AGGREGATES), sharey=True)
    for axes, (name, statistic) in zip(panels, AGGREGATES.items(), strict=True):
        for place, each in enumerate(contenders):
            found, colour = estimate_over_games(each.games, statistic), _colour(place)
            if found.low is not None and found.high is not None:
                axes.barh(place, found.high - found.low, left=found.low, height=0.62, color=colour, alpha=0.55)
            axes.plot([found.mean] * 2, [place - 0.31, place + 0.31], color="0.1", linewidth=2.2)
        better = "lower is better" if name == "optimality gap" else "higher is better"
        axes.set_title(f"{name[0].upper()}{name[1:]}", loc="left", fontsize=13)
        axes.set_xlabel(better, fontsize=11)
        plotting.style(axes)
        axes.grid(visible=False, axis="y")
        axes.locator_params(axis="x", nbins=5)
        axes.use_sticky_edges = False  # Bars would begin on the axis.
        axes.margins(x=0.08)
    panels[0].set_yticks(range(len(contenders)), [each.name for each in contenders])
    panels[0].set_ylim(len(contenders) - 0.45, -0.55)
    figure.suptitle(f"Over {_count(contenders[0].scores)}; {scale}", x=0.01, ha="left", fontsize=12, color="0.35")
    return plotting.encode_figure(figure, colors=_COLOURS)


def _draw_profile(contenders: Sequence[Contender], scale: str) -> bytes:
    """The fraction of runs above each score; bands are 95 % intervals."""
    figure = plotting.make_figure(8.0, 4.8)
    axes = figure.subplots()
    high = max(float(np.concatenate(each.games).max()) for each in contenders if not each.is_published)
    thresholds = np.linspace(0.0, min(max(1.2, 1.3 * high), _WIDE), _STEPS)
    handles: dict[str, Any] = {}
    for place, each in enumerate(contenders):
        colour, how = _colour(place), "--" if each.is_published else "-"
        (handles[each.name],) = axes.plot(
            thresholds, 100 * performance_profile(each.games, thresholds), how, color=colour, linewidth=2
        )
        band = bootstrap_interval(each.games, lambda games: performance_profile(games, thresholds))
        if band is not None and not each.is_published:  # Bands upon bands hide the lines.
            axes.fill_between(thresholds, *(100 * band), color=colour, alpha=0.18, linewidth=0)
    axes.axvline(1.0, color="0.6", linewidth=1, linestyle=":")
    axes.set_xlim(-0.02 * thresholds[-1], thresholds[-1])
    axes.set_ylim(-2, 102)
    axes.set_xlabel(f"score ({scale})", fontsize=12)
    axes.set_ylabel("runs with a higher score (%)", fontsize=12)
    plotting.style(axes)
    plotting.add_legend(figure, handles, min(len(handles), 3))
    return plotting.encode_figure(figure, colors=_COLOURS)


def _draw_games(contenders: Sequence[Contender], scale: str) -> bytes:
    """A row for each game: every seed is a dot, the mean a stroke."""
    games = list(contenders[0].scores)
    figure = plotting.make_figure(10.0, 1.7 + len(games) * (0.2 + 0.13 * len(contenders)))
    axes = figure.subplots()
    handles: dict[str, Any] = {}
    for place, each in enumerate(contenders):
        shift, half = 0.7 * ((place + 0.5) / len(contenders) - 0.5), 0.3 / len(contenders)
        for row, game in enumerate(games):
            scores = each.scores[game]
            dots = {"color": _colour(place), "markersize": 6, "linestyle": "none"}
            marker = "D" if each.is_published else "o"
            (handles[each.name],) = axes.plot(scores, [row + shift] * len(scores), marker, **dots)
            axes.plot([scores.mean()] * 2, [row + shift - half, row + shift + half], color="0.1", linewidth=1.8)
    axes.axvline(0.0, color="0.6", linewidth=1)
    axes.axvline(1.0, color="0.6", linewidth=1, linestyle=":")
    for row in range(len(games) - 1):
        axes.axhline(row + 0.5, color="0.92", linewidth=0.8)
    if max(float(scores.max()) for each in contenders for scores in each.games) > _WIDE:
        axes.set_xscale("symlog", linthresh=1.0)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_yticks(range(len(games)), games)
    axes.set_ylim(len(games) - 0.45, -0.55)
    axes.set_xlabel(f"score ({scale})", fontsize=12)
    plotting.style(axes)
    axes.grid(visible=False, axis="y")
    plotting.add_legend(figure, handles, min(len(handles), 3))
    return plotting.encode_figure(figure, colors=_COLOURS)


def _colour(place: int) -> Any:
    return plotting.pick_colour("tab10", place % 10)


def _count(scores: Mapping[str, np.ndarray]) -> str:
    return f"{len(scores)} game{'s' if len(scores) > 1 else ''}"
