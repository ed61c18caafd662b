"""Statistics over the games of a suite, with stratified bootstrap intervals.

Few seeds of many games say little about one game and much about all of them. Everything here is a function of
normalised scores, a sequence over games of [..., seeds]; games may have different numbers of seeds. Axes before the
last are resamples of the bootstrap.

Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice", arXiv:2108.13264.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from podrl.ops.intervals import CONFIDENCE
from podrl.studies.summary import Estimate

Games = Sequence[np.ndarray]
_REPEATS = 2000
_TRIMMED = 0.25  # At each end, by the interquartile mean.


def median(games: Games) -> np.ndarray:
    """The median over games of the mean over seeds."""
    return np.median(_means(games), axis=-1)


def interquartile_mean(games: Games) -> np.ndarray:
    """The mean of the middle half of all runs, whatever their game."""
    runs = np.sort(np.concatenate(games, axis=-1), axis=-1)
    cut = int(_TRIMMED * runs.shape[-1])
    return runs[..., cut : runs.shape[-1] - cut].mean(axis=-1)


def mean(games: Games) -> np.ndarray:
    """The mean over games of the mean over seeds."""
    return _means(games).mean(axis=-1)


def optimality_gap(games: Games) -> np.ndarray:
    """How far runs are from the reference, 1, on average; what lies above it does not count."""
    return 1 - _means([np.minimum(game, 1) for game in games]).mean(axis=-1)


AGGREGATES: Mapping[str, Callable[[Games], np.ndarray]] = {
    "median": median,
    "IQM": interquartile_mean,
    "mean": mean,
    "optimality gap": optimality_gap,
}


def performance_profile(games: Games, thresholds: np.ndarray) -> np.ndarray:
    """The fraction of runs above each threshold [..., thresholds], the mean over games."""
    above = [(game[..., None] > thresholds).mean(axis=-2) for game in games]
    return np.mean(above, axis=0)


def probability_of_improvement(games: Games, others: Games) -> np.ndarray:
    """How likely a run is to beat one of the others on the same game, the mean over games; a tie counts half.

    Source: Mann & Whitney 1947, the U statistic over the number of pairs.
    """
    wins = []
    for game, other in zip(games, others, strict=True):
        mine, theirs = game[..., :, None], other[..., None, :]
        wins.append((mine > theirs).mean(axis=(-2, -1)) + 0.5 * (mine == theirs).mean(axis=(-2, -1)))
    return np.mean(wins, axis=0)


def bootstrap_interval(games: Games, statistic: Callable[[Games], np.ndarray], *, seed: int = 1) -> np.ndarray | None:
    """The 95 % interval [2, ...] of a statistic, by percentiles; None if no game has two seeds.

    Seeds are drawn with replacement within each game, so that every resample has all games.
    """
    if all(len(game) < 2 for game in games):
        return None
    rng = np.random.default_rng(seed)
    drawn = [game[rng.integers(len(game), size=(_REPEATS, len(game)))] for game in games]
    tail = 50 * (1 - CONFIDENCE)
    return np.percentile(statistic(drawn), [tail, 100 - tail], axis=0)


def estimate_over_games(games: Games, statistic: Callable[[Games], np.ndarray]) -> Estimate:
    """A statistic and its interval."""
    found = bootstrap_interval(games, statistic)
    low, high = (None, None) if found is None else map(float, found)
    return Estimate(mean=float(statistic(games)), low=low, high=high)


def _means(games: Games) -> np.ndarray:
    """[..., games]."""
    return np.stack([game.mean(axis=-1) for game in games], axis=-1)
