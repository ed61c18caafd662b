"""From what a run asks of cores to the time that they need for it."""

import pytest

from podrl.planning.costs import Cost
from podrl.planning.local import predict_local
from podrl.planning.yardsticks import Yardsticks, core_seconds
from tests.planning.test_model import make_run
from tests.runs import make_config

YARDSTICKS = Yardsticks(flops=1e9, bytes=1e8, call_s=1e-3, cores=2, allreduce_s={"4": [1e-3, 1e-9]})


def test_every_stage_is_its_work_over_its_rate_and_slower_beside_others():
    run = make_run(act=Cost(flops=1e6, bytes_accessed=1e5), update=Cost(flops=1e9, bytes_accessed=1e8))
    found = core_seconds(run, YARDSTICKS, 100.0)
    steps, calls = run.env_steps_of_host, run.acting_calls * run.actors
    alone = {"env": 0.01, "act": 2e-3 * calls / steps, "learn": 2 * run.learners / steps}
    ratios = {found[stage] / seconds for stage, seconds in alone.items()}
    assert max(ratios) == pytest.approx(min(ratios))
    assert 1 < min(ratios) < 1.5
    assert found["calls"] == pytest.approx(1e-3 * calls / steps)


def test_what_processes_add_up_takes_core_time_of_each():
    """Each optimizer step reduces gradients of a megabyte and two numbers; each update a vote."""
    run = make_run(reductions=3, parameter_bytes=2**20)
    reduced_s = 3 * (3 * 1e-3 + 2**20 * 1e-9) + 1e-3
    assert core_seconds(run, YARDSTICKS, 100.0)["reduce"] == pytest.approx(reduced_s / run.env_steps_of_host)
    assert core_seconds(make_run(hosts=1), YARDSTICKS, 100.0)["reduce"] == 0


def test_environments_inside_the_program_have_nothing_beside_them():
    run = make_run(act=None, update=Cost(flops=1e9, bytes_accessed=1e8))
    assert core_seconds(run, YARDSTICKS, 100.0)["env"] == 0.01
    assert core_seconds(run, YARDSTICKS, 100.0)["learn"] == pytest.approx(2 * run.learners / run.env_steps_of_host)


def test_a_run_here_is_no_faster_than_its_cores_and_its_actor_thread():
    config = make_config()
    slow_calls = predict_local(config, Yardsticks(flops=1e12, bytes=1e12, call_s=10.0, cores=64))
    assert slow_calls.env_steps_per_s == pytest.approx(1 / (slow_calls.core_s["act"] + slow_calls.core_s["calls"]))
    slow_cores = predict_local(config, Yardsticks(flops=1e3, bytes=1e3, call_s=0.0, cores=1))
    assert slow_cores.env_steps_per_s <= 1 / sum(slow_cores.core_s.values()) * (1 + 1e-9)
