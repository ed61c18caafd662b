import numpy as np
import pytest

from podrl.config.config import EnvConfig
from podrl.envs.seeds import env_seed, env_seeds
from podrl.envs.source import load_source

NUM_ENVS = 100_000


@pytest.mark.parametrize("run_seed", [0, 1, 2**31 - 1, (1, 7)])
def test_environments_of_a_run_have_distinct_seeds(run_seed):
    seeds = env_seeds(run_seed, range(NUM_ENVS))

    assert len(set(seeds)) == NUM_ENVS
    assert min(seeds) >= 0
    assert max(seeds) < 2**31


def test_runs_share_no_more_seeds_than_random_numbers_would():
    # Two random sets of 1e5 out of 2**31 share 4.7 on average; 30 has a probability below 1e-13.
    runs = [set(env_seeds(run_seed, range(NUM_ENVS))) for run_seed in (1, 2, 3, (1, 2))]

    for i, run in enumerate(runs):
        for other in runs[:i]:
            assert len(run & other) < 30


def test_seeds_are_spread_and_neighbours_are_unrelated():
    seeds = np.array(env_seeds(1, range(NUM_ENVS)))

    counts, _ = np.histogram(seeds, bins=64, range=(0, 2**31))
    assert np.abs(counts / (NUM_ENVS / 64) - 1).max() < 0.15  # 6 standard deviations
    for lag in (1, 2, 64):
        assert abs(np.corrcoef(seeds[:-lag], seeds[lag:])[0, 1]) < 0.02


def test_one_seed_is_the_same_alone_and_among_others():
    assert env_seed(3, 17) == env_seeds(3, range(40))[17]


def test_seeds_stay_the_same_across_releases():
    # Changing these numbers changes every run that anyone has recorded.
    assert env_seeds(1, [0, 1, 2]) == [295576254, 2120199014, 1913732131]


@pytest.mark.parametrize("index", [-1, 2**31])
def test_index_out_of_range_is_refused(index):
    with pytest.raises(ValueError, match="must lie in"):
        env_seed(1, index)


def test_every_environment_of_two_runs_starts_differently():
    source, config = load_source("envpool"), EnvConfig(id="CartPole-v1")
    starts = []
    for run_seed in (1, 2):
        pool = source.make_pool(config, seeds=env_seeds(run_seed, range(64)), num_threads=1)
        starts.append(pool.reset().observation)
        pool.close()

    assert len(np.unique(np.concatenate(starts), axis=0)) == 128
