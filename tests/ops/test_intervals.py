"""How often intervals cover what they are of."""

import os

import numpy as np
import pytest

from podrl.ops.intervals import mean_interval, ratio_interval

TRIALS = int(os.environ.get("INTERVAL_TRIALS", "4000"))
# Returns as they occur: a mean, and what draws samples of it.
RETURNS = {
    "normal": (10.0, lambda rng, shape: rng.normal(10, 3, shape)),
    "exponential": (1.0, lambda rng, shape: rng.exponential(1, shape)),
    "length of a life": (10.0, lambda rng, shape: rng.geometric(0.1, shape).astype(float)),
    "two modes": (200.0, lambda rng, shape: rng.normal(0, 5, shape) + 400 * (rng.random(shape) < 0.5)),
}


@pytest.mark.parametrize("name", RETURNS)
@pytest.mark.parametrize(("num", "least"), [(3, 0.84), (5, 0.85), (10, 0.88), (30, 0.91)])
def test_the_interval_covers_the_mean_about_as_often_as_it_says(name, num, least):
    """The percentile bootstrap covers them 0.69 to 0.75 of the time with three samples, 0.78 to 0.92 with five."""
    mean, draw = RETURNS[name]
    samples = draw(np.random.default_rng(num), (TRIALS, num))
    if name == "two modes":  # Of three to five samples all may be of one mode.
        least -= {3: 0.13, 5: 0.04}.get(num, 0.0)
    covered = [low <= mean <= high for low, high in map(mean_interval, samples)]
    assert least <= np.mean(covered) <= 0.98


@pytest.mark.parametrize("num", [2, 3, 5])
def test_the_interval_of_a_ratio_covers_it_about_as_often_as_it_says(num):
    rng = np.random.default_rng(0)
    pairs = zip(rng.normal(100, 10, (TRIALS, num)), rng.normal(50, 3, (TRIALS, num)), strict=True)
    covered = [low <= 2 <= high for low, high in (ratio_interval(*pair) for pair in pairs)]
    assert 0.93 <= np.mean(covered) <= 0.995


def test_a_single_sample_has_no_interval():
    assert mean_interval([3.0]) is None
    assert ratio_interval([3.0, 4.0], [1.0]) is None


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("odd", [float("nan"), float("inf"), 1e308])
def test_means_that_are_not_finite_have_no_interval(odd):
    """The sum of the large ones, or their squares, is no number."""
    samples = [odd, -1e308, odd]
    assert mean_interval(samples) is None
    assert ratio_interval(samples, [1.0, 2.0]) is None
    assert ratio_interval([1.0, 2.0], samples) is None


@pytest.mark.filterwarnings("error")
def test_a_ratio_over_0_has_no_interval_and_one_of_0_has():
    assert ratio_interval([1.0, 2.0], [0.0, 0.0]) is None
    assert ratio_interval([1.0, 2.0], [-1.0, 1.0]) is None
    assert ratio_interval([0.0, 0.0], [1.0, 2.0]) == (0.0, 0.0)
    low, high = ratio_interval([-1.0, 1.0], [2.0, 2.0])
    assert low == -high < -0.5  # What it is of is not known better for a mean of 0.


def test_equal_samples_have_an_interval_of_no_width():
    assert mean_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)
    assert ratio_interval([4.0, 4.0], [2.0, 2.0]) == (2.0, 2.0)
