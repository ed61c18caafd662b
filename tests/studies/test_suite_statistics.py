"""Statistics over games, against rliable's figures and by hand."""

import numpy as np
import pytest
from scipy import stats

from podrl.config.config import ConfigError
from podrl.evaluation.suites import find_baselines, find_scale, suite_games
from podrl.studies.suite_statistics import (
    AGGREGATES,
    bootstrap_interval,
    estimate_over_games,
    interquartile_mean,
    mean,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
)
from tests.processes import ROOT

# Twelve games with five seeds each, and what rliable 1.2.0 says of them. It pulls in arch and statsmodels, and its
# newest version does not import with pandas 3, so its figures were printed once:
# get_interval_estimates(reps=20_000), create_performance_profile(reps=5_000), metrics.probability_of_improvement.
_RNG = np.random.default_rng(7)
X = _RNG.gamma(2.0, 0.5, (5, 12)).round(3).T
Y = _RNG.gamma(2.0, 0.4, (5, 12)).round(3).T
Y[:3, 0] = X[:3, 1]
RLIABLE = {
    "median": (0.7512, 0.6547, 0.9188),
    "IQM": (0.753233, 0.6365, 0.8976),
    "mean": (0.8619, 0.7298, 1.0004),
    "optimality gap": (0.312467, 0.2441, 0.3810),
}


@pytest.mark.parametrize("name", AGGREGATES)
def test_aggregates_and_their_intervals_are_rliables(name):
    value, low, high = RLIABLE[name]
    found = estimate_over_games(list(X), AGGREGATES[name])
    assert found.mean == pytest.approx(value, abs=1e-6)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)


def test_the_profile_is_rliables():
    thresholds = np.array([0.25, 0.5, 1.0, 2.0])
    assert performance_profile(list(X), thresholds) == pytest.approx([0.9, 0.7, 0.283333, 0.05], abs=1e-6)
    low, high = bootstrap_interval(list(X), lambda games: performance_profile(games, thresholds))
    assert low == pytest.approx([0.8333, 0.6, 0.1833, 0.0167], abs=0.02)
    assert high == pytest.approx([0.9667, 0.8, 0.4, 0.1], abs=0.02)


def test_the_probability_of_improvement_is_rliables():
    assert probability_of_improvement(list(X), list(Y)) == pytest.approx(0.581667, abs=1e-6)
    both = [*X, *Y]
    low, high = bootstrap_interval(both, lambda games: probability_of_improvement(games[:12], games[12:]))
    assert (low, high) == pytest.approx((0.4767, 0.6833), abs=0.02)


def test_ties_count_half():
    assert probability_of_improvement([np.array([1.0, 2.0])], [np.array([1.0, 3.0])]) == 0.375
    assert probability_of_improvement([np.array([1.0])], [np.array([1.0])]) == 0.5


def test_the_interquartile_mean_is_scipys_trimmed_mean():
    assert interquartile_mean(list(X)) == pytest.approx(stats.trim_mean(X.ravel(), 0.25))


def test_games_may_have_different_numbers_of_seeds_and_count_alike():
    games = [np.array([0.0, 0.0, 0.0, 0.0]), np.array([3.0])]
    assert mean(games) == 1.5
    assert optimality_gap(games) == 0.5  # What lies above the reference does not count.
    low, high = bootstrap_interval(games, mean)
    assert (low, high) == (1.5, 1.5)


def test_one_seed_has_no_interval():
    assert bootstrap_interval([np.array([1.0]), np.array([2.0])], mean) is None


def test_the_bootstrap_is_scipys_of_each_game_by_itself():
    games = list(X)
    draws = stats.bootstrap(
        tuple(games), lambda *drawn, axis=-1: mean(drawn), paired=False, n_resamples=5000, method="percentile", rng=1
    ).confidence_interval
    assert tuple(bootstrap_interval(games, mean)) == pytest.approx((draws.low, draws.high), abs=0.015)


def test_every_game_of_a_suite_has_a_scale_and_random_play_scores_less_than_the_reference():
    for suite, count in (("atari57", 57), ("atari26", 26), ("atari5", 5), ("minatar", 5), ("dmcontrol", 28)):
        assert len(suite_games(suite)) == count
    for game in suite_games("atari57,minatar,dmcontrol,minigrid"):
        assert find_scale(game).random < find_scale(game).reference, game
    assert find_scale("Catch-v0") is None


def test_the_documentation_names_the_reference_of_minatar():
    (row,) = (line for line in (ROOT / "docs/suites.md").read_text().splitlines() if line.startswith("| `minatar` |"))
    assert f"| {find_scale('Breakout-MinAtar').name} |" in row


# Ids of Brax, Octax, DM Control and others: plain words are ids too.
IDS = (
    *("ant", "halfcheetah", "hopper", "humanoid", "humanoidstandup", "inverted_pendulum", "pusher", "reacher"),
    *("swimmer", "walker2d", "brix", "pong", "tetris", "cavern", "deep", "flight_runner", "worm", "airplane"),
    *("Pong-v5", "ALE/Pong-v5", "Breakout-MinAtar", "MiniGrid-Empty-8x8-v0", "WalkerWalk-v1", "my_env:MyEnv"),
)


@pytest.mark.parametrize("name", IDS)
def test_what_is_not_close_to_a_suite_is_an_id(name):
    assert suite_games(name) == [name]


@pytest.mark.parametrize("name", ["atair57", "atari", "atari 57", "minatr", "dmcontol", "mini_grid", "Minatar"])
def test_what_is_almost_a_suite_is_a_mistake(name):
    with pytest.raises(ConfigError, match=f"'{name}' is no suite; did you mean '"):
        suite_games(name)


# Median, IQM, mean and optimality gap: Micheli et al. 2023, arXiv:2209.00588; Alonso et al. 2024, arXiv:2405.12399.
PUBLISHED = {"IRIS (100k)": (0.289, 0.501, 1.046, 0.512), "DIAMOND (100k)": (0.373, 0.641, 1.459, 0.480)}


def test_the_statistics_of_published_scores_are_those_that_were_published():
    found = {}
    for baseline in find_baselines(suite_games("atari26")):
        games = [find_scale(game).normalise(np.array(scores)) for game, scores in baseline.scores.items()]
        found[baseline.name] = [float(statistic(games)) for statistic in AGGREGATES.values()]
    for name, values in PUBLISHED.items():
        assert found[name] == pytest.approx(values, abs=1e-3)
    assert found["Cleanba IMPALA"][0] == pytest.approx(1.6, abs=0.1)
    assert len(find_baselines(suite_games("atari57"))) == 4
    assert not find_baselines(["Pong-v5", "Catch-v0"])
