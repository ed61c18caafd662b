"""Confidence intervals of a mean, from few or many samples.

They use Student's t, which covers the mean most often where samples are few. A bootstrap can only resample what it has:
from five samples its intervals are a third too narrow. `tests/ops/test_intervals.py` counts how often each covers.
"""

from collections.abc import Sequence
import math
from typing import NamedTuple

import numpy as np
from numpy import typing as npt

CONFIDENCE = 0.95
FEW = 10  # Below so many samples an interval is rough: for skewed samples it covers the mean less often than stated.


def mean_interval(samples: npt.ArrayLike) -> tuple[float, float] | None:
    """Returns the 95 % confidence interval of the mean; None for a single sample, which has no spread.

    It is also None if the mean or the variance is not finite.

    Args:
        samples: [N] independent samples.

    Source: Student 1908, "The Probable Error of a Mean", Biometrika 6(1).
    """
    found = _moments(samples)
    if found is None:
        return None
    return _around(found.mean, math.sqrt(found.variance / found.size), found.size - 1)


def ratio_interval(samples: Sequence[float], base: Sequence[float]) -> tuple[float, float] | None:
    """Returns the 95 % confidence interval of the ratio of two means; None if one of them has a single sample.

    It is also None if a mean or variance is not finite, or if the base's mean is 0. The contributions of both means to
    the variance of the ratio add up (the delta method); the degrees of freedom are Welch's.

    Args:
        samples: [N] independent samples, whose mean is the numerator.
        base: [M] independent samples, whose mean is the denominator.

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
    """Returns mean and variance of at least two samples; None for fewer, or if either is not finite."""
    values = np.asarray(samples, np.float64)
    if len(values) < 2:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        found = _Moments(float(values.mean()), float(values.var(ddof=1)), len(values))
    return found if math.isfinite(found.mean) and math.isfinite(found.variance) else None


def _around(center: float, error: float, freedom: float) -> tuple[float, float] | None:
    from scipy import special  # Importing it takes a tenth of a training process's start, which does not need it.

    half = error * float(special.stdtrit(freedom, (1 + CONFIDENCE) / 2)) if error > 0 else 0.0
    return (center - half, center + half) if math.isfinite(center) and math.isfinite(half) else None
