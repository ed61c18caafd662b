"""The picture of a data set: returns, lengths and actions as histograms, and a map of what was observed."""

from pathlib import Path

import numpy as np

from podrl.config.config import check
from podrl.data.inspection import DataDetails, principal_plane
from podrl.telemetry.histograms import draw_histograms, write_image


def write_data_picture(path: str, details: DataDetails) -> None:
    """Writes the picture.

    Raises:
        ConfigError: If there is nothing to draw, matplotlib is missing, or the file cannot be written.
    """
    check(len(details.facts.length) > 0, f"--out={path}: the data set has no episodes to draw.")
    shown: dict[str, tuple[np.ndarray, str]] = {
        "return of whole episodes": (details.facts.episode_return[details.facts.is_whole], "episodes"),
        "length": (details.facts.length, "episodes"),
        "action": (details.actions.reshape(-1), "entries"),
    }
    shown = {label: (values, unit) for label, (values, unit) in shown.items() if values.size}
    plane = None if details.points is None else ("observations, two main directions", principal_plane(details.points))
    write_image(path, draw_histograms(shown, Path(path).suffix.removeprefix("."), plane=plane))
