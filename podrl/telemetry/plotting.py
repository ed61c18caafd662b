"""What all of podrl's figures have in common. Matplotlib is optional: whoever draws without it is told so."""

import io
from typing import Any

import numpy as np

from podrl.config.config import ConfigError, check
from podrl.runtime.temporary import REMEDY

DOTS_PER_INCH = 200
PALETTE_COLORS = 64  # of a PNG; with lines, bands and their soft edges it looks as with all colors


def make_figure(width_inches: float, height_inches: float) -> Any:
    """An empty `matplotlib.figure.Figure`.

    Raises:
        ConfigError: if matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("Plots need matplotlib: pip install matplotlib, or pip install -e '.[dev]'.") from None
    except OSError as error:  # It keeps its fonts in a folder.
        raise ConfigError(f"Matplotlib cannot begin: {error}. {REMEDY}") from None
    return Figure(figsize=(width_inches, height_inches), dpi=DOTS_PER_INCH, layout="constrained")


def check_format(figure: Any, image_format: str) -> None:
    """Raises ConfigError if matplotlib does not write this format."""
    formats = figure.canvas.get_supported_filetypes()
    check(image_format in formats, f"--out: {image_format!r} is not a format of images. Use {', '.join(formats)}.")


def thin(x: np.ndarray, y: np.ndarray, columns: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """A curve of no more points than a figure can show: of each column the first, the lowest, the highest and the last.

    Args:
        x: [N] increasing.
        y: [N].
        columns: of equal width; more than the figure has pixels.
    """
    if len(x) <= 4 * columns:
        return x, y
    begins = np.unique(np.searchsorted(x, np.linspace(x[0], x[-1], columns + 1)[:-1]))
    kept = [
        begin + np.array([0, np.argmin(part), np.argmax(part), len(part) - 1])
        for begin, part in zip(begins, np.split(y, begins[1:]), strict=True)
    ]
    shown = np.unique(np.concatenate(kept))
    return x[shown], y[shown]


def style(axes: Any) -> None:
    """A light grid and no box."""
    axes.tick_params(labelsize=11, length=0)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("0.7")


def encode_figure(figure: Any, image_format: str = "png") -> bytes:
    """The figure as a file."""
    image = io.BytesIO()
    figure.savefig(image, format=image_format)
    return _with_palette(image) if image_format == "png" else image.getvalue()


def _with_palette(image: io.BytesIO) -> bytes:
    """The PNG with few colors: a third of the bytes, for pictures that are kept in a repository or sent around."""
    from PIL import Image  # Comes with matplotlib.

    smaller = io.BytesIO()
    picture = Image.open(image).convert("RGB").quantize(PALETTE_COLORS)
    picture.save(smaller, format="png", optimize=True, dpi=(DOTS_PER_INCH, DOTS_PER_INCH))
    return smaller.getvalue()
