"""Which parameters make which rollout."""

import pytest

from podrl.schedule import make_schedule, resumable
from tests.runs import make_config


def schedule(first=0, **overrides):
    return make_schedule(make_config(total_env_steps=10 * 8 * 4, **overrides), first)


@pytest.mark.parametrize(
    ("first", "overrides", "versions"),
    [
        (0, {"checkpoint__every_updates": 0}, [0, 0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (0, {"checkpoint__every_updates": 4}, [0, 0, 1, 2, 4, 4, 5, 6, 8, 8]),
        (4, {"checkpoint__every_updates": 4}, [4, 4, 5, 6, 8, 8]),
        (6, {"checkpoint__every_updates": 4}, [6, 6, 8, 8]),  # Stopped between two boundaries.
        (6, {"checkpoint__every_updates": 0}, [6, 6, 7, 8]),
        (0, {"checkpoint__every_updates": 4, "actors__synchronous": True}, list(range(10))),
        (10, {}, []),
    ],
)
def test_rollouts_have_a_lag_of_one_but_at_boundaries(first, overrides, versions):
    plan = schedule(first, **overrides)
    assert [plan.version(rollout) for rollout in plan.rollouts] == versions


@pytest.mark.parametrize(
    ("every", "checkpoints", "expected"),
    [
        (4, [4, 8], [8, 4]),
        (4, [4, 8, 9], [8, 4, 9]),
        (4, [4, 8, 10], [10, 8, 4]),  # The last update.
        (4, [3], [3]),
        (0, [3, 5], [5, 3]),
        (4, [], []),
    ],
)
def test_boundaries_are_the_first_choice_to_go_on_from(every, checkpoints, expected):
    config = make_config(total_env_steps=10 * 8 * 4, checkpoint__every_updates=every)
    assert resumable(config, checkpoints) == expected
