"""Intervals of a mean, from few or many samples.

Student's t, because it covers the mean most often where samples are few: a bootstrap resamples what it has, and
intervals of five samples are then a third too narrow. `tests/ops/test_intervals.py` counts how often each covers.
"""

from collections.abc import Sequence
import math
from typing import NamedTuple

import numpy as np
from numpy import typing as npt
from scipy import special

CONFIDENCE = 0.95
FEW = 10  # Samples below which an interval is rough: of skewed samples it covers the mean less often than it says.


def mean_interval(samples: npt.ArrayLike) -> tuple[float, float] | None:
    """The 95 % interval of the mean; None of a single sample, which says nothing of how far another would differ.

    None too where the mean or the variance is not finite.

    Args:
        samples: [N] independent samples.

    Source: Student 1908, "The Probable Error of a Mean", Biometrika 6(1).
    """
    found = _moments(samples)
    if found is None:
        return None
    return _around(found.mean, math.sqrt(found.variance / found.size), found.size - 1)


def ratio_interval(samples: Sequence[float], base: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the ratio of two means; None where one of them is of a single sample.

    None too where a mean or variance is not finite, or the base's mean is 0. The variances that both means give the
    ratio add up (the delta method); the degrees of freedom are Welch's.

    Args:
        samples: [N] independent samples.
        base: [M] others, whose mean the ratio is over.

    Source: Welch 1947, "The Generalization of Student's Problem", Biometrika 34.
    """
    above, below = _moments(samples), _moments(base)
    if above is None or below is None or below.mean == 0:
        return None
    ratio = above.mean / below.mean
    parts = [side.variance / side.size * slope * slope for side, slope in ((above, 1), (below, ratio))]
    weights = sum(part * part / (side.size - 1) for part, side in zip(parts, (above, below), strict=True))
    freedom = sum(parts) * sum(parts) / weights if weights > 0 else math.inf
    return _around(ratio, math.sqrt(sum(parts)) / abs(below.mean), freedom)


class _Moments(NamedTuple):
    mean: float
    variance: float
    size: int


def _moments(samples: npt.ArrayLike) -> _Moments | None:
    """Of two samples or more whose mean and variance are finite; None of others."""
    values = np.asarray(samples, np.float64)
    if len(values) < 2:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        found = _Moments(float(values.mean()), float(values.var(ddof=1)), len(values))
    return found if math.isfinite(found.mean) and math.isfinite(found.variance) else None


def _around(center: float, error: float, freedom: float) -> tuple[float, float] | None:
    half = error * float(special.stdtrit(freedom, (1 + CONFIDENCE) / 2)) if error > 0 else 0.0
    return (center - half, center + half) if math.isfinite(center) and math.isfinite(half) else None
