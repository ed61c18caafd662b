"""The pictures of a sweep: how it went, and what mattered."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from podrl.studies.sweep_study import Sweep
from podrl.telemetry import plotting

_COMPLETE, _PRUNED, _BEST = "#1f77b4", "0.65", "#d62728"
_PANELS = 4  # Parameters that are shown, the most important ones.


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoundTrial:
    """What became of one trial.

    Attributes:
        number: Its number.
        state: `complete`, `pruned`, `fail` or `running`.
        value: The objective at its end, or where it was pruned; None if no row had it.
        values: Its values by the config's keys, as text.
        params: What Optuna suggested, by the names that the space gives.
        curve: The objective by step, as far as the pruner heard.
        reason: Why it failed; empty if it did not.
    """

    number: int
    state: str
    value: float | None
    values: Mapping[str, str]
    params: Mapping[str, Any]
    curve: Mapping[int, float]
    reason: str


def draw_history(found: Sequence[FoundTrial], sweep: Sweep) -> bytes:
    """Draws the value of each trial with the best so far, and beside it the curves of all trials by their steps."""
    figure = plotting.make_figure(12.0, 4.6)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
    complete = sorted((each for each in found if each.state == "complete"), key=lambda each: each.number)
    numbers, values = [each.number for each in complete], np.array([each.value for each in complete])
    best = np.maximum.accumulate(values) if sweep.direction == "maximize" else np.minimum.accumulate(values)
    pruned = [each for each in found if each.state == "pruned" and each.value is not None]
    handles: dict[str, Any] = {}
    handles["complete"] = left.plot(numbers, values, "o", color=_COMPLETE, markersize=6)[0]
    if pruned:
        marks = [each.number for each in pruned], [each.value for each in pruned]
        handles["pruned, where it stood"] = left.plot(*marks, "x", color=_PRUNED, markersize=7)[0]
    handles["best so far"] = left.step(numbers, best, where="post", color=_BEST, linewidth=1.6)[0]
    left.set_xlabel("trial", fontsize=12)
    for each in sorted(found, key=lambda each: each.state == "complete"):
        is_best = each is found[0]
        colour = _BEST if is_best else _COMPLETE if each.state == "complete" else _PRUNED
        steps = sorted(each.curve)
        how = {"color": colour, "alpha": 1.0 if is_best else 0.55, "linewidth": 2.2 if is_best else 1.2}
        line = right.plot(steps, [each.curve[step] for step in steps], zorder=3 if is_best else 2, **how)[0]
        if each.state == "pruned" and steps:
            right.plot(steps[-1:], [each.curve[steps[-1]]], "x", color=_PRUNED, markersize=7)
        if is_best:
            handles[f"trial {each.number}, the best"] = line
    right.set_xlabel(sweep.prune_by.replace("_", " "), fontsize=12)
    right.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    for axes in (left, right):
        axes.set_ylabel(sweep.objective, fontsize=12)
        plotting.style(axes)
    left.xaxis.get_major_locator().set_params(integer=True)
    plotting.add_legend(figure, handles, len(handles))
    return plotting.encode_figure(figure)


def draw_importance(found: Sequence[FoundTrial], sweep: Sweep, shares: Mapping[str, float]) -> bytes:
    """Draws the objective over the values of each parameter, the most important first, with its share in the title."""
    names = sorted({name for each in found for name in each.params}, key=lambda name: -shares.get(name, 0.0))[:_PANELS]
    figure = plotting.make_figure(max(4.2 * len(names), 6.0), 4.4)
    handles: dict[str, Any] = {}
    for axes, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=True):
        shown = [each for each in found if name in each.params and each.value is not None]
        choices = _choices([each.params[name] for each in shown])
        for state, mark, colour in (("pruned", "x", _PRUNED), ("complete", "o", _COMPLETE)):
            of_state = [each for each in shown if each.state == state]
            x = [choices.index(each.params[name]) if choices else each.params[name] for each in of_state]
            if x:
                handles[state] = axes.plot(x, [each.value for each in of_state], mark, color=colour, markersize=6)[0]
        if found[0] in shown:
            place = choices.index(found[0].params[name]) if choices else found[0].params[name]
            how = {"markersize": 11, "markerfacecolor": "none", "markeredgewidth": 1.8}
            handles["the best"] = axes.plot([place], [found[0].value], "o", color=_BEST, **how)[0]
        if choices:
            axes.set_xticks(range(len(choices)), [str(choice) for choice in choices])
        elif _spans_decades([each.params[name] for each in shown]):
            axes.set_xscale("log")
        share = f"{100 * shares[name]:.0f}% of the importance" if name in shares else "importance not known yet"
        axes.set_title(share, loc="left", fontsize=12)
        axes.set_xlabel(name, fontsize=12)
        plotting.style(axes)
        axes.minorticks_off()
    figure.axes[0].set_ylabel(sweep.objective, fontsize=12)
    plotting.add_legend(figure, handles, len(handles))
    return plotting.encode_figure(figure)


def _choices(values: Sequence[Any]) -> list[Any]:
    """Returns the values of a categorical parameter in their order; empty for numbers of many values."""
    kinds = list(dict.fromkeys(values))
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in kinds)
    if numbers and (len(kinds) > 6 or any(isinstance(value, float) for value in kinds)):
        return []
    return sorted(kinds) if numbers else kinds


def _spans_decades(values: Sequence[float]) -> bool:
    return min(values) > 0 and math.log10(max(values) / min(values)) > 1.2
