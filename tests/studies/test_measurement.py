"""From rows of metrics to numbers."""

import math

import pytest

from podrl.studies.measurement import measure_rows, measured_seconds
from podrl.telemetry.rates import START_KEY, RateMeter
from tests.studies.studies import BATCH, make_rows


def test_rates_leave_the_warm_up_out():
    """The first update took 20 s; what counts begins at update 10."""
    found = measure_rows(make_rows(6_400), 3)
    assert found.env_steps_per_second == pytest.approx(6_400)
    assert found.frames_per_second == pytest.approx(4 * 6_400)
    assert found.updates_per_second == pytest.approx(20)
    assert found.measured_updates == 90
    assert found.measured_s == pytest.approx(4.5)
    assert found.wall_s == pytest.approx(20 + 99 / 20)
    assert (found.env_steps, found.starts, found.lag_mean) == (100 * BATCH, 1, 1.0)


def test_rows_of_the_first_updates_are_warm_up():
    rows = make_rows(320, updates=range(2, 11))
    rows[1]["time/wall_s"] = rows[0]["time/wall_s"] + 0.001  # Update 2 came at once: the rate must not see it.
    assert measure_rows(rows, 3).env_steps_per_second == pytest.approx(320)
    assert measure_rows(rows, 3).measured_updates == 7


def test_the_gap_between_two_starts_does_not_count():
    rows = make_rows(6_400, updates=range(10, 51, 10))
    rows += make_rows(3_200, updates=range(70, 101, 10), first=60)
    found = measure_rows(rows, 3)
    assert found.starts == 2
    assert found.measured_updates == 40 + 30
    assert found.measured_s == pytest.approx(2 + 3)
    assert found.env_steps_per_second == pytest.approx(70 * BATCH / 5)
    assert measured_seconds(rows, 3) == pytest.approx(5)


def test_a_start_whose_first_row_comes_after_its_warm_up_is_a_start():
    """A clock of its own, by a meter of its own: 100 steps in each 0.1 s, after 5 s of compiling."""
    rows = []
    for first, last in ((1, 50), (51, 100)):
        meter = RateMeter(warm_up=2)
        begins = {START_KEY: first - 1}
        for update in range(first, last + 1):
            ended_s = 5 + (update - first) / 10
            meter.add(update * 100, ended_s)
            if update == 1 or update % 10 == 0:
                rate = meter.read().recent
                counts = {"learner_steps": update, "env_steps": update * 100, "frames": update * 100}
                rate = None if math.isnan(rate) else rate
                rows.append(counts | {"env_steps_per_second": rate, "time/wall_s": ended_s} | begins)
                begins = {}
    assert [row["learner_steps"] for row in rows if row["env_steps_per_second"] is None] == [1, 60]
    found = measure_rows(rows, 3)
    assert found.starts == 2
    assert found.env_steps_per_second == pytest.approx(1000)
    assert found.measured_updates == 40 + 40  # From updates 10 and 60: both warm-ups were over.


def test_a_start_that_was_killed_in_its_warm_up_is_not_the_next_ones_beginning():
    """Neither has a rate, and the next one's clock is later."""
    killed = make_rows(320, updates=(10,), start_s=-15.0)
    killed[-1]["env_steps_per_second"] = None
    rows = killed + make_rows(320, updates=(30, 40, 50), first=20)
    rows[2][START_KEY] = 10
    found = measure_rows(rows, 3)
    assert (found.starts, found.measured_updates) == (2, 30)
    assert found.wall_s == pytest.approx(rows[1]["time/wall_s"] + rows[-1]["time/wall_s"])


def test_a_row_without_a_rate_is_no_new_start_where_rows_say_when_there_is_one():
    """Updates that end together have no rate between them."""
    rows = make_rows(320)
    rows[5]["env_steps_per_second"] = None
    assert measure_rows(rows, 3).starts == 1


def test_a_long_policy_lag_has_a_long_warm_up():
    assert measure_rows(make_rows(6_400), 25).measured_updates == 70
    with pytest.raises(RuntimeError, match="after the warm-up of 101 updates, between which"):
        measure_rows(make_rows(6_400), 101)


def test_time_shares_are_weighted_by_the_time_they_are_of():
    rows = make_rows(320, updates=(10, 20, 50))
    rows[-1] |= {"time/learner/learn": 0.1, "time/learner/wait_rollouts": 0.9}
    found = measure_rows(rows, 3).time
    assert found["learner/learn"] == pytest.approx((10 * 0.5 + 30 * 0.1) / 40)
    assert found["learner/learn"] + found["learner/wait_rollouts"] == pytest.approx(1)


def test_an_evaluations_rows_are_left_out():
    rows = make_rows(6_400)
    rows.insert(5, {"learner_steps": 40, "env_steps": 1, "frames": 4, "evaluate/return": 1.0, "time/wall_s": 900.0})
    assert measure_rows(rows, 3) == measure_rows(make_rows(6_400), 3)


def test_too_few_rows_say_what_to_do():
    with pytest.raises(RuntimeError, match=r"2 row\(s\) of metrics leave no two after the warm-up"):
        measure_rows(make_rows(6_400, updates=(10,)), 3)
