"""Curves of other programs, read from CSV files, to draw beside podrl's runs."""

from collections.abc import Sequence
import csv

from etils import epath
import numpy as np

from podrl.config.config import ConfigError, check
from podrl.runs.curves import Curve

_EXPECTED = "expected a line of names, then lines of two numbers or more: env steps, which increase, and the metric."


def read_published(argument: str, like: Sequence[Curve]) -> list[Curve]:
    """Reads the curves of one program, one of each of its runs.

    Args:
        argument: `NAME=FILE.csv,FILE.csv,...`. A file has a line of names, then in its first two columns env steps and
            the metric; further columns are not read.
        like: curves that they are drawn beside, all of one environment.

    Raises:
        ConfigError: if the argument or a file is not of this form, or `like` is of several environments.
    """
    name, _, files = argument.partition("=")
    check(bool(name and files), f"--beside={argument}: expected NAME=FILE.csv, or NAME=FILE.csv,FILE.csv,...")
    env_ids = sorted({curve.env_id for curve in like})
    check(
        len(env_ids) == 1,
        f"--beside={argument}: the runs are of {len(env_ids)} environments, {', '.join(env_ids)}. Draw one at a time.",
    )
    names = {curve.name for curve in like}
    check(name not in names, f"--beside={argument}: the runs' config has this name too. Choose another.")
    points = [_read_points(file, argument) for file in files.split(",")]
    window = like[0].window
    return [Curve(name=name, env_id=env_ids[0], window=window, x=x, y=y) for x, y in points]


def _read_points(file: str, argument: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads a file's points, [N] each."""
    try:
        lines = csv.reader(epath.Path(file).read_text().splitlines())
        _, *rows = [line for line in lines if any(cell.strip() for cell in line)]
        x, y = (np.array([float(row[column]) for row in rows]) for column in (0, 1))
    except OSError as error:
        raise ConfigError(f"--beside={argument}: {file} cannot be read: {error.strerror or error}.") from None
    except (ValueError, IndexError, csv.Error):
        raise ConfigError(f"--beside={argument}: {file} is not such a file; {_EXPECTED}") from None
    is_curve = len(x) > 0 and bool(np.isfinite([x, y]).all()) and bool((np.diff(x) > 0).all())
    check(is_curve, f"--beside={argument}: {file} is not such a file; {_EXPECTED}")
    return x, y
