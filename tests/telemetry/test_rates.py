"""Rates against clocks that are not podrl's: those of the environments and of the devices."""

import dataclasses
import functools
import itertools
import json
import math
from pathlib import Path
import threading
import time
import types

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.evaluation.episodes import Episodes
from podrl.evaluation.evaluator import Evaluator
from podrl.loops import bookkeeping, in_flight
from podrl.performance.benchmark import jobs
from podrl.runtime.devices import is_ready
from podrl.telemetry import metrics_rows
from podrl.telemetry.rates import RateMeter
from tests.envs import scripted
from tests.short_runs import anakin_config, make_agent, run, scripted_config

pytestmark = pytest.mark.usefixtures("compiled_once")

STEPS = 8 * 4  # of an update
PER_ROLLOUT = 2 * 4  # Two pools take four steps each.
LATE_S = 5.0  # Nothing takes so long that comes at all.


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

    def test_the_first_row_of_a_start_has_no_rate_though_its_warm_up_is_over(self):
        """So it tells that a start begins there."""
        meter = RateMeter()
        for env_steps, ended_s in ((100, 50.0), (200, 51.0), (300, 52.0)):
            meter.add(env_steps, ended_s)
        first = meter.read()
        assert math.isnan(first.recent)
        assert first.average == 100.0
        meter.add(500, 53.0)
        assert meter.read() == (200.0, pytest.approx(400 / 3))

    def test_updates_that_end_together_are_one_end(self):
        """A run that goes on may begin with a call of several updates, of which only the end is known."""
        meter = RateMeter()
        for env_steps in (100, 200, 300):
            meter.add(env_steps, 50.0)
        assert math.isnan(meter.read().recent)
        meter.add(400, 51.0)
        assert meter.read() == (100.0, 100.0)


def test_a_job_of_the_benchmark_is_measured_from_the_end_of_its_warm_up(monkeypatch):
    """Its first 7 updates take a second each, those without a rate among them; the others a tenth."""

    class Job:
        def __init__(self, command, **_):
            (folder,) = (word.partition("=")[2] for word in command if word.startswith("--workdir="))
            Path(folder).mkdir()
            clock = {update: min(update, 7) + max(0, update - 7) / 10 for update in range(1, 31)}
            rows = [
                {
                    "learner_steps": update,
                    "env_steps": update * STEPS,
                    "env_steps_per_second": None if update < 7 else 1.0,
                    "time/wall_s": clock[update],
                }
                for update in (1, 5, 10, 15, 20, 25, 30)
            ]
            (Path(folder) / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

        def poll(self):
            return None

        send_signal = wait = kill = lambda *_: None

    monkeypatch.setattr(jobs.subprocess, "Popen", Job)
    assert jobs.time_job([], 1, 1, 1.5, warm_up=7) == pytest.approx(10 * STEPS)


class Marks:
    """When the journal saw updates end, or calls of several; what comes next in a test waits for that.

    Attributes:
        ended_s: by `time.perf_counter`, in their order.
        start_s: of the run.
    """

    def __init__(self):
        self.ended_s = []
        self.start_s = math.nan
        self._changed = threading.Condition()

    def add(self, ended_s):
        with self._changed:
            self.ended_s.append(ended_s)
            self._changed.notify_all()

    def wait(self, count):
        """Waits for that many; whoever finds them late sees it in the order of times."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.ended_s) >= count, LATE_S)


@pytest.fixture
def marks(monkeypatch):
    found = Marks()

    class Marked(metrics_rows.MetricsRows):
        def __init__(self, *, start_s, **options):
            super().__init__(start_s=start_s, **options)
            found.start_s = start_s
            found.ended_s.clear()  # Before there was an update.

        def mark(self):
            end = super().mark()
            found.add(end.ended_s)
            return end

    monkeypatch.setattr(bookkeeping, "MetricsRows", Marked)
    return found


@pytest.fixture
def steps(monkeypatch):
    """The times at which the scripted environments' steps ended, in their order, and what each waits for before it."""
    found = types.SimpleNamespace(ended_s=[], before=lambda step: None)
    recv = scripted.Pool.recv

    def timed(pool):
        timestep = recv(pool)
        found.before(len(found.ended_s) + 1)
        found.ended_s.append(time.perf_counter())
        return timestep

    monkeypatch.setattr(scripted.Pool, "recv", timed)
    return found


def with_updates_that(wait, config):
    """The agent, with updates that wait on the device as `wait(updates before)` does, and the times when they end."""
    agent, _ = make_agent(config)
    ended_s = []

    def end(step):
        wait(int(step))
        ended_s.append(time.perf_counter())
        return np.float32(0)

    def learn(state, batch):
        new_state, metrics, priority = agent.learn(state, batch)
        waited = jax.pure_callback(end, jax.ShapeDtypeStruct((), jnp.float32), state.step)
        return new_state, {**metrics, "loss/total": metrics["loss/total"] + waited}, priority

    return dataclasses.replace(agent, learn=learn), ended_s


def check_rates(outcome, rows, ends_s, start_s, warm_up):
    """Holds rates against the ends of updates, by their numbers."""
    for before, row in itertools.pairwise(({"learner_steps": 0}, *rows)):
        first, last = max(before["learner_steps"], warm_up), row["learner_steps"]
        assert start_s + row["time/wall_s"] == pytest.approx(ends_s[last], abs=1e-6)
        rate = (last - first) * STEPS / (ends_s[last] - ends_s[first]) if last > warm_up else math.nan
        assert row["env_steps_per_second"] == pytest.approx(rate, nan_ok=True)
    last = max(ends_s)
    average = (last - warm_up) * STEPS / (ends_s[last] - ends_s[warm_up])
    assert outcome.env_steps_per_second == pytest.approx(average)


@pytest.mark.parametrize("every_updates", [1, 3])
def test_rows_of_a_run_that_environments_limit_go_by_their_clock(steps, marks, every_updates):
    """Every rollout ends after the update of the one before was seen to end, which comes while it is waited for."""

    def wait_for_the_update_before(step):
        if step % PER_ROLLOUT == 0:
            marks.wait(step // PER_ROLLOUT - 1)

    steps.before = wait_for_the_update_before
    config = scripted_config(total_env_steps=5 * STEPS, log__every_updates=every_updates)
    outcome, rows = run(config)
    assert len(steps.ended_s) == 5 * PER_ROLLOUT
    made_s = steps.ended_s[PER_ROLLOUT - 1 :: PER_ROLLOUT]
    in_order = [time_s for pair in zip(made_s, marks.ended_s, strict=True) for time_s in pair]
    assert in_order == sorted(in_order)
    check_rates(outcome, rows, dict(enumerate(marks.ended_s, start=1)), marks.start_s, warm_up=2)


def test_a_starts_first_row_has_the_clock_of_its_first_update(marks):
    """It may come updates later: update 3 is the first of the second start, and update 4 has the first row."""
    saved = []
    make = functools.partial(scripted_config, log__every_updates=4, checkpoint__every_updates=2)
    _, (first, *_) = run(make(total_env_steps=2 * STEPS), save=saved.append)
    assert first["time/first_update_s"] == first["time/wall_s"]
    _, (first, last) = run(make(total_env_steps=8 * STEPS), start=saved[-1])
    assert (first["learner_steps"], first["time/start"]) == (4, 2)
    assert first["time/first_update_s"] == pytest.approx(marks.ended_s[0] - marks.start_s)
    assert first["time/first_update_s"] <= first["time/wall_s"]
    assert "time/first_update_s" not in last


def test_rollouts_that_lay_ready_after_the_first_update_do_not_count_as_made_in_no_time(steps, marks):
    both = threading.Event()
    steps.before = lambda step: both.set() if step == 2 * PER_ROLLOUT else None
    config = scripted_config(total_env_steps=5 * STEPS)
    agent, ended_s = with_updates_that(lambda step: both.wait(LATE_S) if step == 0 else None, config)
    outcome, rows = run(config, agent=agent)
    assert [math.isnan(row["env_steps_per_second"]) for row in rows] == [True, True, False, False, False]
    assert steps.ended_s[2 * PER_ROLLOUT - 2] < ended_s[0] < steps.ended_s[2 * PER_ROLLOUT]
    check_rates(outcome, rows, dict(enumerate(marks.ended_s, start=1)), marks.start_s, warm_up=2)


@pytest.mark.parametrize("make", [scripted_config, anakin_config])
def test_rows_of_a_run_that_the_learner_limits_go_by_its_devices_clock(marks, make):
    """Every call ends after the one before was seen to end, which is on its way or waits for its launch."""
    calls = [1, 2, 4, 6, 7] if make is anakin_config else [*range(1, 8)]  # The last updates of each.
    config = make(total_env_steps=7 * STEPS, log__every_updates=2, topology__updates_per_call=4)
    agent, ended_s = with_updates_that(lambda step: marks.wait(sum(last <= step for last in calls)), config)
    outcome, rows = run(config, agent=agent)
    assert [row["learner_steps"] for row in rows] == [1, 2, 4, 6, 7]
    in_order = [
        time_s for last, seen_s in zip(calls, marks.ended_s, strict=True) for time_s in (ended_s[last - 1], seen_s)
    ]
    assert in_order == sorted(in_order)
    ends_s = dict(zip(calls, marks.ended_s, strict=True))
    check_rates(outcome, rows, ends_s, marks.start_s, warm_up=1 if make is anakin_config else 2)


@pytest.mark.parametrize("make", [scripted_config, anakin_config])
def test_the_clock_of_a_row_does_not_wait_for_an_evaluation(make, monkeypatch):
    """Update 4 ends while the main thread waits for the evaluation of update 2, which ends after that was seen."""
    waits, was_seen = threading.Event(), threading.Event()
    updates, in_time, played_s = [], [], []

    def ends_while_an_evaluation_is_waited_for(metrics):
        if not any(metrics is other for other in updates):
            updates.append(metrics)
        return is_ready(metrics) and (len(updates) < 4 or waits.is_set())

    class Seen(metrics_rows.MetricsRows):
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
        in_time.append(was_seen.wait(LATE_S))
        played_s.append(time.perf_counter())
        return Episodes(returns=np.ones(1), lengths=np.ones(1, int))

    monkeypatch.setattr(in_flight, "is_ready", ends_while_an_evaluation_is_waited_for)
    monkeypatch.setattr(bookkeeping, "MetricsRows", Seen)
    config = make(total_env_steps=4 * STEPS, evaluate__every_updates=2)
    evaluator = Awaited(every_updates=2, last_update=4, timeout_s=60.0, play=play, write=lambda *_: None)
    start_s = time.perf_counter()
    with evaluator:
        _, rows = run(config, evaluator=evaluator)
    assert in_time == [True, True]
    assert rows[-1]["learner_steps"] == 4
    assert start_s + rows[-1]["time/wall_s"] < played_s[0]
