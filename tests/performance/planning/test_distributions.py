import dataclasses
import json

import numpy as np
import pytest

from podrl.config.config import ConfigError
from podrl.performance.planning.distributions import HostWork


def seeded() -> np.random.Generator:
    return np.random.default_rng(0)


def test_draws_have_the_mean_the_tail_and_the_largest_of_the_samples():
    samples = np.concatenate([seeded().gamma(2.0, 1e-3, 20_000), [0.5]])
    found = HostWork.of(samples)
    assert found.mean == pytest.approx(samples.mean())
    for probability in (0.1, 0.5, 0.9, 0.99, 0.999, 1.0):
        assert found.quantile(probability) == pytest.approx(np.quantile(samples, probability), rel=0.05)
    draws = found.draw(seeded(), 200_000)
    assert draws.shape == (200_000,)
    assert draws.mean() == pytest.approx(samples.mean(), rel=0.02)
    assert draws.max() == 0.5
    assert np.quantile(draws, 0.999) == pytest.approx(np.quantile(samples, 0.999), rel=0.05)


def test_quantiles_are_samples():
    found = HostWork.of([3.0, 1.0, 2.0])
    assert [found.quantile(p) for p in (0.0, 0.3, 0.5, 0.99, 1.0)] == [1.0, 1.0, 2.0, 3.0, 3.0]
    assert found.scaled(2.0).quantile(1.0) == 6.0


def test_stragglers_raise_the_mean_by_their_share():
    late = dataclasses.replace(HostWork.of([2.0]), late=(0.1, 5.0))
    assert late.mean == pytest.approx(0.9 * 2 + 0.1 * 10)
    draws = late.draw(seeded(), 10_000)
    assert set(draws) == {2.0, 10.0}
    assert draws.mean() == pytest.approx(late.mean, rel=0.05)
    with pytest.raises(ConfigError, match="probability"):
        dataclasses.replace(late, late=(1.5, 2.0))


def test_json_brings_it_back():
    found = HostWork.of(seeded().gamma(2.0, 1e-3, 5000), 0.5)
    again = HostWork.from_json(json.loads(json.dumps(found.to_json())))
    assert again.mean == pytest.approx(found.mean, rel=1e-6)
    assert again.cores == 0.5
    for samples in ((), (-1.0,), (float("nan"),)):
        with pytest.raises(ConfigError):
            HostWork(samples=samples)
