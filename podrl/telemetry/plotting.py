"""What all of podrl's figures share. Matplotlib is optional: without it, drawing raises a clear error."""

from collections.abc import Mapping
import io
from typing import Any

import numpy as np

from podrl.config.config import ConfigError, check
from podrl.runtime.temporary import REMEDY

DOTS_PER_INCH = 200
PALETTE_COLORS = 64  # Colors of a PNG; lines, bands and their soft edges look the same as with all colors.


def make_figure(width_inches: float, height_inches: float) -> Any:
    """Returns an empty `matplotlib.figure.Figure`.

    Raises:
        ConfigError: if matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("Plots need matplotlib: pip install matplotlib.") from None
    except OSError as error:  # Matplotlib keeps its fonts in a folder.
        raise ConfigError(f"Matplotlib cannot begin: {error}. {REMEDY}") from None
    return Figure(figsize=(width_inches, height_inches), dpi=DOTS_PER_INCH, layout="constrained")


def check_format(figure: Any, image_format: str) -> None:
    """Raises `ConfigError` if matplotlib does not write this format."""
    formats = figure.canvas.get_supported_filetypes()
    check(image_format in formats, f"--out: {image_format!r} is not a format of images. Use {', '.join(formats)}.")


def thin(x: np.ndarray, y: np.ndarray, columns: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Thins a curve to what a figure can show: in each column its first, lowest, highest and last point.

    Args:
        x: [N] increasing.
        y: [N].
        columns: number of columns, of equal width; more than the figure has pixels.
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
    """Styles axes with a light grid and no box."""
    axes.tick_params(labelsize=11, length=0)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("0.7")


def add_legend(figure: Any, handles: Mapping[str, Any], columns: int) -> None:
    """Puts a legend below the figure, by label."""
    how = {"loc": "outside lower center", "ncols": columns, "frameon": False, "fontsize": 11}
    figure.legend(list(handles.values()), list(handles), **how)


def show_plain_numbers(axis: Any, limits: tuple[float, float]) -> None:
    """Shows ticks such as 5,000 and 20,000 on a logarithmic axis, also where it spans less than a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    decades = np.log10(limits[1] / limits[0])
    fine = [1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9]
    some = [1, 1.5, 2, 3, 4, 5, 6, 8] if decades < 0.7 else [1, 2, 5] if decades < 3.5 else [1]
    axis.set_major_locator(LogLocator(subs=fine if decades < 0.35 else some, numticks=50))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 10 else f"{value:g}"))


def pick_colour(name: str, place: float) -> Any:
    """A colour of one of matplotlib's maps."""
    import matplotlib as mpl

    return mpl.colormaps[name](place)


def encode_figure(figure: Any, image_format: str = "png", *, colors: int = PALETTE_COLORS) -> bytes:
    """Returns the figure encoded as a file; a PNG has at most so many colors, up to 256."""
    image = io.BytesIO()
    figure.savefig(image, format=image_format)
    return _with_palette(image, colors) if image_format == "png" else image.getvalue()


def _with_palette(image: io.BytesIO, colors: int) -> bytes:
    """Returns the PNG with few colors: a third of the bytes, for pictures in a repository or a message."""
    from PIL import Image  # Installed with matplotlib.

    smaller = io.BytesIO()
    picture = Image.open(image).convert("RGB").quantize(colors)
    picture.save(smaller, format="png", optimize=True, dpi=(DOTS_PER_INCH, DOTS_PER_INCH))
    return smaller.getvalue()
