"""Intervals of a mean, from few or many samples.

Student's t, because it covers the mean most often where samples are few: a bootstrap resamples what it has, and
intervals of five samples are then a third too narrow. `tests/test_intervals.py` counts how often each covers.
"""

from collections.abc import Sequence
import math

import numpy as np
from numpy import typing as npt
from scipy import special

CONFIDENCE = 0.95
FEW = 10  # Samples below which an interval is rough: of skewed samples it covers the mean less often than it says.


def mean_interval(samples: npt.ArrayLike) -> tuple[float, float] | None:
    """The 95 % interval of the mean; None of a single sample, which says nothing of how far another would differ.

    Args:
        samples: [N] independent samples.

    Source: Student 1908, "The Probable Error of a Mean", Biometrika 6(1).
    """
    values = np.asarray(samples, np.float64)
    if len(values) < 2:
        return None
    error = values.std(ddof=1) / math.sqrt(len(values))
    return _around(float(values.mean()), float(error), len(values) - 1)


def ratio_interval(samples: Sequence[float], base: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the ratio of two means; None where one of them is of a single sample.

    The relative variances of both means add up (the delta method); the degrees of freedom are Welch's.

    Args:
        samples: [N] independent samples.
        base: [M] others, whose mean the ratio is over.

    Source: Welch 1947, "The Generalization of Student's Problem", Biometrika 34.
    """
    sides = [np.asarray(side, np.float64) for side in (samples, base)]
    if min(map(len, sides)) < 2:
        return None
    ratio = float(sides[0].mean() / sides[1].mean())
    parts = [float(side.var(ddof=1) / len(side) / side.mean() ** 2) for side in sides]
    weights = sum(part**2 / (len(side) - 1) for part, side in zip(parts, sides, strict=True))
    freedom = sum(parts) ** 2 / weights if weights > 0 else math.inf
    return _around(ratio, abs(ratio) * math.sqrt(sum(parts)), freedom)


def _around(center: float, error: float, freedom: float) -> tuple[float, float]:
    half = error * float(special.stdtrit(freedom, (1 + CONFIDENCE) / 2)) if error > 0 else 0.0
    return center - half, center + half
