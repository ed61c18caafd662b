"""The picture of a data set: returns, lengths and actions as histograms, and a map of what was observed."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from podrl.config.config import check
from podrl.data.inspection import DataDetails, principal_plane
from podrl.data.manifest import describe_policy
from podrl.telemetry.histograms import Plane, draw_histograms, write_image

_MOST_POLICIES = 10  # With colours of their own.
_RETURN = "return of whole episodes"


def write_data_picture(path: str, details: DataDetails) -> None:
    """Writes the picture. What is the same in all episodes has no histogram, and is said in the title.

    Raises:
        ConfigError: If there is nothing to draw, matplotlib is missing, or the file cannot be written.
    """
    facts = details.facts
    check(len(facts.length) > 0, f"--out={path}: the data set has no episodes to draw.")
    found: dict[str, tuple[np.ndarray, str]] = {
        _RETURN: (facts.episode_return[facts.is_whole], "episodes"),
        "length": (facts.length, "episodes"),
        "action": (details.actions.reshape(-1), "entries"),
    }
    found = {label: (values, unit) for label, (values, unit) in found.items() if values.size}
    shown = {label: (values, unit) for label, (values, unit) in found.items() if np.ptp(values) > 0}
    plane = _make_plane(details)
    if not shown and plane is None:
        shown = found
    title = f"{details.manifest.spec.env.id}: {', '.join([_count(details), *_constants(found, shown)])}"
    write_image(path, draw_histograms(shown, Path(path).suffix.removeprefix("."), plane=plane, title=title))


def _count(details: DataDetails) -> str:
    return f"{len(details.facts.length):,} episodes of {int(details.facts.length.sum()):,} steps in all"


def _constants(found: Mapping[str, tuple[np.ndarray, str]], shown: Mapping[str, tuple[np.ndarray, str]]) -> list[str]:
    """Describes what is the same everywhere."""
    same = {label: f"{values.reshape(-1)[0]:,g}" for label, (values, _) in found.items() if label not in shown}
    said = {_RETURN: "all of return", "length": "all of length", "action": "every action"}
    return [f"{said[label]} {value}" for label, value in same.items()]


def _make_plane(details: DataDetails) -> Plane | None:
    """Returns the map of the observations, by who acted if that was more than one; None if they do not vary."""
    points = details.points
    if points is None or not len(points) or not (deviation := points.std(0)).any():
        return None
    projected = principal_plane(points)
    shares = projected.var(0) / np.count_nonzero(deviation)
    names = [describe_policy(each.facts) for each in details.manifest.recordings]
    groups = {name: np.isin(details.who, [n for n, each in enumerate(names) if each == name]) for name in names}
    groups = {name: mask for name, mask in groups.items() if mask.any()}
    return Plane(
        points=projected,
        labels=(f"main direction of observations ({shares[0]:.0%})", f"second direction ({shares[1]:.0%})"),
        groups=groups if 1 < len(groups) <= _MOST_POLICIES else {},
    )
