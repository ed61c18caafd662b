import json

import numpy as np
import pytest

from podrl.config.config import ConfigError
from podrl.performance.planning.distributions import Durations


def seeded() -> np.random.Generator:
    return np.random.default_rng(0)


def test_draws_have_the_mean_the_tail_and_the_largest_of_the_samples():
    samples = np.concatenate([seeded().gamma(2.0, 1e-3, 20_000), [0.5]])
    found = Durations.of(samples)
    assert len(found.values) < 180  # compact
    assert found.mean == pytest.approx(samples.mean(), rel=1e-9)
    assert found.values[-1] == 0.5
    for probability in (0.1, 0.5, 0.9, 0.99, 0.999):
        assert found.quantile(probability) == pytest.approx(np.quantile(samples, probability), rel=0.05)
    draws = found.draw(seeded(), (1000, 200))
    assert draws.shape == (1000, 200)
    assert draws.mean() == pytest.approx(samples.mean(), rel=0.02)
    assert np.quantile(draws, 0.999) == pytest.approx(np.quantile(samples, 0.999), rel=0.05)


def test_few_samples_are_kept_as_they_are():
    assert Durations.of([3.0, 1.0, 2.0]) == Durations(values=(1.0, 2.0, 3.0), weights=(1 / 3,) * 3)
    assert Durations.of([2.0]) == Durations.constant(2.0)


def test_equal_samples_stay_in_order_whatever_is_rounded():
    for value in (0.1, 1e-9, 1 / 3):
        found = Durations.of(np.full(1001, value))
        assert found.values == pytest.approx([value] * len(found.values))


def test_stragglers_raise_the_mean_by_their_share():
    steady = Durations.constant(2.0)
    late = steady.with_stragglers(0.1, 5.0)
    assert late.mean == pytest.approx(0.9 * 2 + 0.1 * 10)
    assert (late.quantile(0.89), late.quantile(0.95)) == (2.0, 10.0)
    assert steady.with_stragglers(0.0, 5.0) == steady
    with pytest.raises(ConfigError, match="probability"):
        steady.with_stragglers(1.5, 2.0)


def test_a_pool_of_more_environments_takes_longer_and_waits_for_the_latest_of_more():
    step = Durations(values=(1.0, 1.5, 4.0), weights=(0.5, 0.4, 0.1))  # 3 later than usual, once in ten steps
    double = step.stretched(2.0, largest_of=2.0)
    assert double.values == (2.0, 2.5, 5.0)  # Late by as much as before.
    np.testing.assert_allclose(double.weights, (0.25, 0.56, 0.19))
    assert step.stretched(1.0).values == step.values
    np.testing.assert_allclose(step.stretched(1.0).weights, step.weights)


def test_json_brings_it_back():
    found = Durations.of(seeded().gamma(2.0, 1e-3, 5000))
    again = Durations.from_json(json.loads(json.dumps(found.to_json())))
    assert again.mean == pytest.approx(found.mean, rel=1e-6)
    with pytest.raises(ConfigError, match="values and weights were expected"):
        Durations.from_json({"values": [1.0]})
    with pytest.raises(ConfigError, match="ascending"):
        Durations(values=(2.0, 1.0), weights=(0.5, 0.5))
    with pytest.raises(ConfigError, match=r"sum to 0\.5"):
        Durations(values=(2.0,), weights=(0.5,))
