"""Rates against clocks that are not podrl's: those of the environments and of the devices."""

import dataclasses
import itertools
import math
import threading
import time
import types

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl import anakin, journal, progress
from podrl.evaluate import Episodes
from podrl.evaluator import Evaluator
from podrl.rates import RateMeter
from podrl.transfer import is_ready
from tests.envs import scripted
from tests.runs import anakin_config, make_agent, run, scripted_config

STEPS = 8 * 4  # of an update
ROLLOUT_S = 0.4  # Two pools take four steps each.
SLOW = types.MappingProxyType({"sleep_s": ROLLOUT_S / 8})


class TestRateMeter:
    def test_excludes_what_was_before_the_first_end(self):
        meter = RateMeter()
        meter.add(100, 50.0)
        assert all(map(math.isnan, meter.read()))
        meter.add(300, 52.0)
        assert meter.read() == (100.0, 100.0)
        meter.add(350, 52.5)
        meter.add(400, 53.0)
        assert meter.read() == (100.0, 100.0)
        meter.add(400, 55.0)
        assert meter.read() == (0.0, 60.0)

    def test_excludes_the_updates_of_the_warm_up(self):
        """What the second update learned from lay ready: it came in no time."""
        meter = RateMeter(warm_up=2)
        rates = []
        for env_steps, ended_s in ((100, 50.0), (200, 50.1), (300, 52.1), (400, 54.1)):
            meter.add(env_steps, ended_s)
            rates.append(meter.read())
        assert all(map(math.isnan, (*rates[0], *rates[1])))
        assert rates[2:] == [pytest.approx((50.0, 50.0))] * 2

    def test_updates_that_end_together_are_one_end(self):
        """A run that goes on may begin with a call of several updates, of which only the end is known."""
        meter = RateMeter()
        for env_steps in (100, 200, 300):
            meter.add(env_steps, 50.0)
        assert math.isnan(meter.read().recent)
        meter.add(400, 51.0)
        assert meter.read() == (100.0, 100.0)


@pytest.fixture
def steps_ended_s(monkeypatch):
    """The times at which the scripted environments' steps ended, in their order."""
    ended_s = []
    recv = scripted.Pool.recv

    def timed(pool):
        timestep = recv(pool)
        ended_s.append(time.perf_counter())
        return timestep

    monkeypatch.setattr(scripted.Pool, "recv", timed)
    return ended_s


def with_slow_updates(config, seconds):
    """The agent, with updates that take so long (the first, the others) on the device, and the times when they end."""
    agent, _ = make_agent(config)
    ended_s = []

    def wait(step):
        time.sleep(seconds[min(int(step), 1)])
        ended_s.append(time.perf_counter())
        return np.float32(0)

    def update(state, trajectory):
        new_state, metrics = agent.update(state, trajectory)
        waited = jax.pure_callback(wait, jax.ShapeDtypeStruct((), jnp.float32), state.step)
        return new_state, {**metrics, "loss/total": metrics["loss/total"] + waited}

    return dataclasses.replace(agent, update=update), ended_s


def check_rates(outcome, rows, ends_s, warm_up):
    """Holds rates against the clock of whatever limits the run, which says when it was done with each update."""
    for row in rows:
        assert math.isnan(row["env_steps_per_second"]) == (row["learner_steps"] <= warm_up)
    for before, row in itertools.pairwise(rows):
        first, last = max(before["learner_steps"], warm_up), row["learner_steps"]
        if last > warm_up:
            took_s = ends_s[last - 1] - ends_s[first - 1]
            assert row["env_steps_per_second"] == pytest.approx((last - first) * STEPS / took_s, rel=0.5)
        took_s = ends_s[last - 1] - ends_s[before["learner_steps"] - 1]
        assert row["time/wall_s"] - before["time/wall_s"] == pytest.approx(took_s, rel=0.5)
    average = (len(ends_s) - warm_up) * STEPS / (ends_s[-1] - ends_s[warm_up - 1])
    assert outcome.env_steps_per_second == pytest.approx(average, rel=0.3)


@pytest.mark.parametrize("every_updates", [1, 3])
def test_rows_of_a_run_that_environments_limit_go_by_their_clock(steps_ended_s, every_updates):
    config = scripted_config(SLOW, total_env_steps=5 * STEPS, log__every_updates=every_updates)
    outcome, rows = run(config)
    assert len(steps_ended_s) == 5 * 8
    check_rates(outcome, rows, steps_ended_s[7::8], warm_up=2)


def test_rollouts_that_lay_ready_after_the_first_update_do_not_count_as_made_in_no_time(steps_ended_s):
    config = scripted_config(SLOW, total_env_steps=5 * STEPS)
    agent, _ = with_slow_updates(config, (3 * ROLLOUT_S, 0.0))
    outcome, rows = run(config, agent=agent)
    assert [math.isnan(row["env_steps_per_second"]) for row in rows] == [True, True, False, False, False]
    truth = 23 / 24 * 3 * STEPS / (steps_ended_s[-1] - steps_ended_s[2 * 8])
    assert outcome.env_steps_per_second == pytest.approx(truth, rel=0.5)


@pytest.mark.parametrize("make", [scripted_config, anakin_config])
def test_rows_of_a_run_that_the_learner_limits_go_by_its_devices_clock(make):
    config = make(total_env_steps=7 * STEPS, log__every_updates=2, topology__updates_per_call=4)
    agent, ended_s = with_slow_updates(config, (0.3, 0.3))
    outcome, rows = run(config, agent=agent)
    assert [row["learner_steps"] for row in rows] == [1, 2, 4, 6, 7]
    check_rates(outcome, rows, ended_s, warm_up=1 if make is anakin_config else 2)


@pytest.mark.parametrize("make", [scripted_config, anakin_config])
def test_the_clock_of_a_row_does_not_wait_for_an_evaluation(make, monkeypatch):
    """Update 4 ends while the main thread waits for the evaluation of update 2, which ends after that was seen."""
    waits, was_seen = threading.Event(), threading.Event()
    updates, in_time, played_s = [], [], []

    def ends_while_an_evaluation_is_waited_for(metrics):
        if not any(metrics is other for other in updates):
            updates.append(metrics)
        return is_ready(metrics) and (len(updates) < 4 or waits.is_set())

    class Seen(journal.Journal):
        def mark(self):
            end = super().mark()
            if len(updates) == 4:
                was_seen.set()
            return end

    class Awaited(Evaluator):
        def settle(self, should_stop=lambda: False):
            if len(updates) == 4:
                waits.set()
            return super().settle(should_stop)

    def play(params, update, **_):
        in_time.append(was_seen.wait(5.0))
        played_s.append(time.perf_counter())
        return Episodes(returns=np.ones(1), lengths=np.ones(1, int))

    asks = anakin if make is anakin_config else journal
    monkeypatch.setattr(asks, "is_ready", ends_while_an_evaluation_is_waited_for)
    monkeypatch.setattr(progress, "Journal", Seen)
    config = make(total_env_steps=4 * STEPS, evaluate__every_updates=2)
    evaluator = Awaited(every_updates=2, last_update=4, timeout_s=60.0, play=play, write=lambda *_: None)
    start_s = time.perf_counter()
    with evaluator:
        _, rows = run(config, evaluator=evaluator)
    assert in_time == [True, True]
    assert rows[-1]["learner_steps"] == 4
    assert start_s + rows[-1]["time/wall_s"] < played_s[0]
