"""From stages that were measured to the rate of a run."""

import json
import math

import pytest
from rich.console import Console

from configs import impala_catch
from podrl.assembly import resolve
from podrl.config.config import ConfigError
from podrl.config.config_dict import to_dict
from podrl.performance.composition import COLLECT, PROGRAM, Overlap, StageCost, compose
from podrl.performance.planning import report
from podrl.performance.planning.measured import (
    ProcessStages,
    predict_benchmark,
    predict_here,
    predict_stages,
    read_benchmark,
)

TOGETHER = Overlap(several_pools=True, in_turn=False)
TURNS = Overlap(several_pools=False, in_turn=False)
IN_TURN = Overlap(several_pools=True, in_turn=True)
WALL_S = {"env": 2.0, "act": 3.0, "transfer": 0.5, "learn": 4.0}


@pytest.mark.parametrize(
    ("wall_s", "overlap", "shared", "seconds", "limit"),
    [
        (WALL_S, TOGETHER, {}, 4.0, "learn"),
        (WALL_S, TURNS, {}, 5.0, "collect"),
        (WALL_S, IN_TURN, {}, 3.0 + 0.5 + 4.0, "learn"),
        (WALL_S | {"transfer": 6.0}, TOGETHER, {}, 6.0, "transfer"),
        (WALL_S | {"reduce": 1.0}, TOGETHER, {}, 5.0, "learn"),
        (WALL_S, TOGETHER, {"turns_s": 7.0}, 7.0, "turns"),
        (WALL_S, TOGETHER, {"core_s": 10.0, "cores": 2}, 5.0, "cores"),
        (WALL_S, IN_TURN, {"core_s": 10.0, "cores": 2}, 7.5, "learn"),
        ({"learn": 4.0, COLLECT: 4.5}, TURNS, {}, 4.5, "collect"),
        ({PROGRAM: 4.0}, TOGETHER, {}, 4.0, "learn"),
    ],
)
def test_stages_overlap_follow_each_other_or_share_cores(wall_s, overlap, shared, seconds, limit):
    found = compose(wall_s, overlap, **shared)
    assert found.seconds == pytest.approx(seconds)
    assert found.limit == limit


def make_stages(**changes):
    costs = {"env": StageCost(1e-3, 1e-3), COLLECT: StageCost(2e-3, 2e-3), "learn": StageCost(1e-3, 1e-3)}
    fields = {"costs": costs, "overlap": TOGETHER, "cores": 2, "env_steps_per_update": 100, "reductions": 3}
    return ProcessStages(**(fields | changes))


def test_what_actors_take_together_counts_once():
    found = predict_stages(make_stages())
    assert found["predicted"] == pytest.approx(1 / 2e-3)
    assert found["limit"] == "collect"
    assert found["core_s"] == {COLLECT: 2e-3, "learn": 1e-3}
    assert predict_stages(make_stages(cores=1))["predicted"] == pytest.approx(1 / 3e-3)


def test_processes_add_up_and_their_reductions_take_time_of_each():
    step = StageCost(wall_s=0.1, core_s=0.01)
    found = predict_stages(make_stages(), 2, step)
    assert found["wall_s"]["reduce"] == pytest.approx(3 * 0.1 / 100)
    assert found["core_s"]["reduce"] == pytest.approx(3 * 0.01 / 100)
    assert found["predicted"] == pytest.approx(2 / (1e-3 + 3e-3))
    assert "reduce" not in predict_stages(make_stages())["wall_s"]


@pytest.fixture
def config():
    return resolve(impala_catch.get_config())


def write_report(path, settings, **changes):
    def stage(rate):
        rates = {"median": rate, "min": 0.9 * rate, "max": 1.2 * rate}
        return {"env_steps_per_second": rates, "core_seconds_per_env_step": {"median": 1 / rate}}

    found = {
        "config": to_dict(settings),
        "machine": {"cores": 2, "platform": "cpu"},
        "overlap": {"several_pools": True, "in_turn": False},
        "stages": {
            "env": stage(1000.0),
            "local": stage(1.0),
            COLLECT: stage(500.0),
            "learn": stage(800.0),
            "end_to_end": stage(400.0),
        },
    }
    path.write_text(json.dumps(found | changes))
    return path


def test_a_benchmarks_report_is_enough_to_predict_its_run(tmp_path, config):
    stages, found = read_benchmark(write_report(tmp_path / "report.json", config), config)
    assert stages.costs["env"].core_s == pytest.approx(1e-3)
    row = predict_benchmark(stages, found)
    assert row["predicted"] == pytest.approx(500.0)
    assert (row["measured"], row["error"]) == (400.0, pytest.approx(0.25))
    assert row["error_min"] < row["error"] < row["error_max"]
    console = Console(record=True, width=1000)
    report.show_measured(console, [{"run": "impala_catch", **row}], cores=2)
    text = console.export_text()
    assert "+25% (" in text
    assert "the actors" in text


def test_cores_are_shared_where_no_accelerator_is(tmp_path, config):
    path = write_report(tmp_path / "report.json", config, machine={"cores": 8, "platform": "gpu"})
    assert math.isinf(read_benchmark(path, config)[0].cores)


def test_other_reports_are_refused(tmp_path, config):
    path = tmp_path / "report.json"
    with pytest.raises(ConfigError, match="there is no such file"):
        read_benchmark(path, config)
    write_report(path, config, **{"config": to_dict(config) | {"seed": 77}})
    with pytest.raises(ConfigError, match="is of another config: seed: measured with 77, asked for"):
        read_benchmark(path, config)
    for text in ("", "[]", "{}"):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"is not what tools/benchmark\.py --json writes"):
            read_benchmark(path, config)


@pytest.mark.slow
def test_stages_are_measured_in_a_process_of_their_own(config):
    found = predict_here(config, 1, 1)
    assert found["wall_s"].keys() == {COLLECT, "learn"}
    assert found["predicted"] > 0
