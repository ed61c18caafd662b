"""Histograms side by side, as the tools that inspect replay and data sets draw them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from podrl.config.config import ConfigError
from podrl.telemetry import plotting

_WIDTH_INCHES, _HEIGHT_INCHES = 4.2, 3.4


class Plane(NamedTuple):
    """A map.

    Attributes:
        points: [N, 2].
        labels: Of its two axes.
        groups: [N] bool of each group of points that has a colour, by its name; none for a map of the points' density.
    """

    points: np.ndarray
    labels: tuple[str, str]
    groups: Mapping[str, np.ndarray]


def draw_histograms(
    shown: Mapping[str, tuple[np.ndarray, str]],
    image_format: str,
    *,
    logarithmic: str = "",
    plane: Plane | None = None,
    title: str = "",
) -> bytes:
    """Draws a histogram of each of several values.

    Args:
        shown: Values [N], and what there is one of for each value, by the label of their axis.
        image_format: The format.
        logarithmic: The label whose axis is logarithmic where its values lie far apart.
        plane: A map that is drawn behind the histograms.
        title: Stands above all.

    Raises:
        ConfigError: If matplotlib is missing, or does not write this format.
    """
    panels = len(shown) + (plane is not None)
    figure = plotting.make_figure(_WIDTH_INCHES * max(panels, 1), _HEIGHT_INCHES)
    plotting.check_format(figure, image_format)
    for place, (label, (values, unit)) in enumerate(shown.items()):
        axes: Any = figure.add_subplot(1, panels, place + 1)
        bins = _bins(values)
        axes.hist(values, bins=bins, rwidth=0.94, color=plotting.pick_colour("tab10", place))
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.xaxis.get_major_locator().set_params(integer=bool(np.all(bins[:-1] % 1 == 0.5)))
        if label == logarithmic and values.max() > 100 * values.min():
            axes.set_xscale("log")
        axes.set_xlabel(label, fontsize=12)
        axes.set_ylabel(unit, fontsize=12)
        plotting.style(axes)
    if plane is not None:
        _draw_plane(figure, figure.add_subplot(1, panels, panels), plane)
    if title:
        figure.suptitle(title, fontsize=13)
    return plotting.encode_figure(figure, image_format)


def _draw_plane(figure: Any, axes: Any, plane: Plane) -> None:
    """Draws a map: points in the colours of their groups, or their density with its scale."""
    if plane.groups:
        for place, (name, mask) in enumerate(plane.groups.items()):
            colour = plotting.pick_colour("tab10", place)
            axes.scatter(*plane.points[mask].T, s=5, alpha=0.4, linewidths=0, color=colour, label=name)
        legend = {"loc": "outside right center", "frameon": False, "fontsize": 11, "markerscale": 3}
        for handle in figure.legend(**legend).legend_handles:
            handle.set_alpha(1)
    else:
        counts = axes.hist2d(plane.points[:, 0], plane.points[:, 1], bins=60, cmap="viridis", cmin=1)
        figure.colorbar(counts[3], ax=axes, label="steps shown")
    axes.set_xlabel(plane.labels[0], fontsize=11)
    axes.set_ylabel(plane.labels[1], fontsize=11)
    plotting.style(axes)


def write_image(path: str, image: bytes) -> None:
    """Writes a picture for a tool's `--out`.

    Raises:
        ConfigError: If the file cannot be written.
    """
    try:
        Path(path).write_bytes(image)
    except OSError as error:
        raise ConfigError(f"--out={path} cannot be written ({error.strerror or error}). Name another file.") from None


def _bins(values: np.ndarray) -> np.ndarray:
    """Returns the edges of a histogram's bins: whole numbers if there are few, else 40, wider ones for large values."""
    low, high = float(values.min()), float(values.max())
    if np.all(values == np.round(values)) and high - low < 60:
        return np.arange(low - 0.5, high + 1.5)
    if low > 0 and high > 100 * low:
        return np.geomspace(low, high, 41)
    return np.linspace(low, high, 41) if high > low else np.array([low - 0.5, high + 0.5])
