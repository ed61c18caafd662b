"""Which episodes count, and what is said of them."""

import numpy as np
import pytest

from podrl.evaluation.episodes import Episodes, Tally, split_episodes, summarize_episodes
from podrl.types import Timestep


def timestep(reward, discount, first):
    return Timestep(
        observation=np.zeros((len(first), 1)),
        reward=np.float32(reward),
        discount=np.float32(discount),
        first=np.array(first),
    )


class TestTally:
    def test_short_episodes_of_one_environment_do_not_displace_the_long_ones_of_another(self):
        tally = Tally(num_envs=2, episodes_per_env=1)
        tally.add(timestep([9, 9], [1, 1], [True, True]))  # Resets earn nothing.
        for reward in (1, 2, 3):  # Environment 0 plays three episodes of one step, 1 a single one of five.
            tally.add(timestep([reward, 10], [0, 1], [False, False]))
            assert not tally.is_full
            tally.add(timestep([9, 10], [1, 1], [True, False]))
        tally.add(timestep([0, 9], [1, 1], [False, True]))
        assert tally.is_full
        episodes = tally.episodes()
        np.testing.assert_array_equal(episodes.returns, [1, 60])
        np.testing.assert_array_equal(episodes.lengths, [1, 6])

    def test_a_truncated_episode_counts_like_a_terminated_one(self):
        tally = Tally(num_envs=1, episodes_per_env=2)
        tally.add(timestep([0], [1], [True]))
        for discount in (1, 0):
            tally.add(timestep([2], [1], [False]))
            tally.add(timestep([3], [discount], [False]))
            tally.add(timestep([0], [1], [True]))
        np.testing.assert_array_equal(tally.episodes().returns, [5, 5])
        np.testing.assert_array_equal(tally.episodes().lengths, [2, 2])


@pytest.mark.parametrize(
    ("episodes", "expected"), [(1, (1, 1)), (20, (20, 1)), (32, (32, 1)), (100, (25, 4)), (1000, (32, 32))]
)
def test_every_environment_plays_as_many_episodes(episodes, expected):
    assert split_episodes(episodes) == expected
    assert episodes <= np.prod(expected) < episodes + expected[1]


class TestStatistics:
    def test_numbers_by_hand(self):
        summary = summarize_episodes(Episodes(returns=np.array([1.0, 2.0, 6.0]), lengths=np.array([10, 20, 60])))
        interval = summary["return"].pop("interval")
        assert interval == pytest.approx([3 - 4.302653 * 7**0.5 / 3**0.5, 3 + 4.302653 * 7**0.5 / 3**0.5])
        assert summary == {
            "episodes": 3,
            "return": {"mean": 3.0, "median": 2.0, "min": 1.0, "max": 6.0},
            "length": {"mean": 30.0, "median": 20.0, "min": 10, "max": 60},
        }

    def test_one_episode_has_no_interval(self):
        summary = summarize_episodes(Episodes(returns=np.array([5.0]), lengths=np.array([10])))
        assert (summary["return"]["mean"], summary["return"]["interval"]) == (5.0, None)
