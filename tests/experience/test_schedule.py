"""Which parameters make which rollout."""

import pytest

from podrl.experience.schedule import WARMUP_UPDATES, make_schedule, resumable, warm_up_updates
from podrl.types import Counters
from tests.short_runs import anakin_config, make_config


def schedule(first=0, **overrides):
    begun = Counters(learner_steps=first, env_steps=first * 8 * 4)
    return make_schedule(make_config(total_env_steps=10 * 8 * 4, **overrides), begun)


@pytest.mark.parametrize(
    ("first", "overrides", "versions"),
    [
        (0, {"checkpoint__every_updates": 0}, [0, 0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (0, {"checkpoint__every_updates": 4}, [0, 0, 1, 2, 4, 4, 5, 6, 8, 8]),
        (4, {"checkpoint__every_updates": 4}, [4, 4, 5, 6, 8, 8]),
        (6, {"checkpoint__every_updates": 4}, [6, 6, 8, 8]),  # Stopped between two boundaries.
        (6, {"checkpoint__every_updates": 0}, [6, 6, 7, 8]),
        (0, {"checkpoint__every_updates": 4, "actors__lag": 0}, list(range(10))),
        (0, {"checkpoint__every_updates": 0, "actors__lag": 2}, [0, 0, 0, 1, 2, 3, 4, 5, 6, 7]),
        (0, {"checkpoint__every_updates": 5, "actors__lag": 4}, [0, 0, 0, 0, 0, 5, 5, 5, 5, 5]),
        (5, {"checkpoint__every_updates": 5, "actors__lag": 3}, [5, 5, 5, 5, 6]),
        (7, {"checkpoint__every_updates": 0, "actors__lag": 8}, [7, 7, 7]),
        (10, {}, []),
    ],
)
def test_rollouts_have_the_lag_asked_for_but_after_boundaries(first, overrides, versions):
    plan = schedule(first, **overrides)
    assert [plan.versions(rollout) for rollout in plan.rollouts] == [range(v, v + 1) for v in versions]


@pytest.mark.parametrize(
    ("first", "overrides", "oldest"),
    [
        (0, {}, [0, 0, 0, 1, 2, 3, 4, 5, 6, 7]),
        (4, {"actors__max_lag": 1}, [4, 4, 5, 6, 7, 8]),
        (0, {"actors__max_lag": 0}, list(range(10))),
    ],
)
def test_a_free_run_has_a_bounded_lag_and_no_boundaries(first, overrides, oldest):
    plan = schedule(first, determinism="free", checkpoint__every_updates=4, **overrides)
    assert [plan.versions(rollout) for rollout in plan.rollouts] == [
        range(version, rollout + 1) for rollout, version in zip(plan.rollouts, oldest, strict=True)
    ]
    assert [rollout for rollout in plan.rollouts if rollout == plan.boundary(rollout)] == [first]


@pytest.mark.parametrize(
    ("every", "checkpoints", "expected"),
    [
        (4, [4, 8], [8, 4]),
        (4, [4, 8, 9], [8, 4, 9]),
        (4, [4, 8, 10], [10, 8, 4]),  # The last update.
        (4, [3], [3]),
        (4, [4, 6, 7], [4, 7, 6]),
        (4, [4, 8, 9, 10], [10, 8, 4, 9]),
        (5, [5, 11, 12], [12, 11, 5]),  # The interval has changed: no more than one is made again.
        (0, [3, 5], [5, 3]),
        (4, [], []),
    ],
)
def test_boundaries_are_the_first_choice_to_go_on_from(every, checkpoints, expected):
    config = make_config(total_env_steps=10 * 8 * 4, checkpoint__every_updates=every)
    assert resumable(config, checkpoints, finished=[10]) == expected


def test_a_free_run_goes_on_from_the_newest():
    config = make_config(total_env_steps=10 * 8 * 4, checkpoint__every_updates=4, determinism="free")
    assert resumable(config, [4, 8, 9]) == [9, 8, 4]


def test_the_warm_up_is_as_long_as_rollouts_of_the_first_parameters_lie_ready():
    free = {"determinism": "free", "actors__max_lag": 7}
    assert warm_up_updates(make_config(**free)) == 1 + 7
    assert warm_up_updates(make_config(**free | {"actors__max_lag": 1})) == WARMUP_UPDATES
    assert warm_up_updates(make_config(actors__max_lag=7)) == WARMUP_UPDATES
    assert warm_up_updates(make_config(actors__lag=7)) == 1 + 7
    assert warm_up_updates(anakin_config(**free)) == WARMUP_UPDATES
