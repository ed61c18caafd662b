import dataclasses
import io
import itertools
import json
import math
from pathlib import Path
import re
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from rich.console import Console

from podrl.assembly import assemble
from podrl.commands import benchmark as tool
from podrl.experience.schedule import WARMUP_UPDATES
from podrl.loops import sebulba
from podrl.loops.interface import Assembly
from podrl.performance.benchmark import instruments, measure, relations, report, stages, whole_run
from podrl.performance.benchmark.instruments import StageTime
from podrl.performance.benchmark.relations import relate_to_stages
from podrl.performance.composition import Overlap
from tests.processes import ROOT
from tests.short_runs import make_config, run

CATCH = str(ROOT / "configs/impala_catch.py")
STAGES = {"env", "act", "learn", "transfer", "collect", "end_to_end"}


def sample(rate: float, cores: float = 1.0, others: float = 0.0) -> StageTime:
    return StageTime(env_steps=1000, wall_s=1000 / rate, core_s=cores * 1000 / rate, others_s=others * 1000 / rate)


@pytest.fixture
def fast_yardsticks(monkeypatch):
    monkeypatch.setattr(instruments, "_YARDSTICK_S", 0.05)
    monkeypatch.setattr(instruments, "_MATMUL_SIZES", (256, 256))


@pytest.fixture
def outcomes(monkeypatch):
    """What real runs of the run loop came to."""
    run, outcomes = sebulba.run, []

    def run_and_keep(*args, **kwargs):
        outcomes.append(run(*args, **kwargs))

    monkeypatch.setattr(sebulba, "run", run_and_keep)
    return outcomes


def make_parts(**overrides):
    one_device = {f"topology__{who}_devices_per_process": 1 for who in ("actor", "learner")}
    return stages.make_parts(make_config(**one_device, **overrides))


@pytest.fixture(scope="module")
def catch():
    return make_parts()


def test_measures_every_stage_of_a_config(tmp_path, monkeypatch, capsys, fast_yardsticks):
    monkeypatch.chdir(tmp_path)
    split = [f"--config.topology.{who}_devices_per_process=1" for who in ("actor", "learner")]
    split += ["--config.actors.threads_per_device=2", "--config.actors.num_envs=16"]
    arguments = ["--smoke", "--repeats", "2", "--seconds", "0.05", "--json", "report.json", *split]
    assert tool.main(["benchmark.py", "--config", CATCH, *arguments]) == 0

    report = json.loads(Path("report.json").read_text())
    assert set(report["stages"]) == STAGES
    for stage in report["stages"].values():
        assert len(stage["samples"]) == 2
        for name in ("env_steps_per_second", "frames_per_second", "core_seconds_per_env_step"):
            assert 0 < stage[name]["min"] <= stage[name]["median"] <= stage[name]["max"]
    # 16 environments for 2 actors with 2 pools each, and unrolls shrunk to 5 steps.
    assert report["layout"] == {
        "num_actors": 2,
        "pools_per_actor": 2,
        "envs_per_pool": 4,
        "num_processes": 1,
        "env_threads": 1,
    }
    for name in ("learn", "end_to_end"):
        assert all(repeat["env_steps"] % (16 * 5) == 0 for repeat in report["stages"][name]["samples"])
    assert report["config"]["env"]["id"] == "Catch-v0"
    assert 0 < report["machine"]["matmul_gflops"]["min"] <= report["machine"]["matmul_gflops"]["max"]
    first = report["first_update_s"]
    assert first["compile"] == report["compile_s"] > 0
    assert first["import"] > 0
    assert first["rest"] > 0
    assert first["total"] == pytest.approx(first["import"] + first["compile"] + first["rest"])
    assert report["peak_memory_bytes"]["process"] > 50 * 2**20
    assert report["update_memory_bytes"]["state_bytes"] > 0
    assert report["parameters"] == "8 parameters, whole on every learner device"
    assert report["end_to_end"]["slowest_stage"] in STAGES - {"end_to_end"}
    assert report["end_to_end"]["bound"] in ("cores", "collect", "learn", "transfer")
    assert report["end_to_end"]["of_bound"]["median"] > 0
    assert report["overlap"] == {"several_pools": True, "in_turn": False}

    text = capsys.readouterr().out
    assert all(
        heading in text for heading in ("env steps/s", "frames/s", "core-us/step", "Time to first update", "GFLOP/s")
    )
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.slow
def test_environments_inside_are_measured_against_a_plain_loop(tmp_path, monkeypatch, capsys, fast_yardsticks):
    monkeypatch.chdir(tmp_path)
    arguments = ["--smoke", "--repeats", "2", "--seconds", "0.05", "--json", "report.json"]
    assert tool.main(["benchmark.py", "--config", CATCH.replace("impala_catch", "ppo_cartpole"), *arguments]) == 0
    report = json.loads(Path("report.json").read_text())
    assert set(report["stages"]) == {"program", "plain", "end_to_end"}
    rates = [report["stages"][name]["samples"][0] for name in ("end_to_end", "plain")]
    one, other = (sample["env_steps"] / sample["wall_s"] for sample in rates)
    assert report["end_to_end"]["of_plain"]["min"] <= one / other <= report["end_to_end"]["of_plain"]["max"]
    assert "of a plain loop of this environment and network" in capsys.readouterr().out


def test_compares_two_configs_in_turns(tmp_path, monkeypatch, capsys, fast_yardsticks):
    monkeypatch.chdir(tmp_path)
    compiled, turns = [], []
    make_parts, time_end_to_end = measure.make_parts, measure.time_end_to_end

    def make_and_note(config):
        compiled.append(len(turns))
        return make_parts(config)

    def time_and_note(parts, seconds):
        turns.append(parts.config.actors.env_threads)
        return time_end_to_end(parts, seconds)

    monkeypatch.setattr(measure, "make_parts", make_and_note)
    monkeypatch.setattr(measure, "time_end_to_end", time_and_note)
    one_device = [f"--config.topology.{who}_devices_per_process=1" for who in ("actor", "learner")]
    arguments = ["--repeats", "2", "--seconds", "0.05", "--json", "report.json", "--smoke", *one_device]
    arguments += ["--config.network.hidden_sizes=(8,)", "--config.actors.env_threads=1"]
    arguments += ["--config.env.options.height=8"]
    arguments += ["--compare", CATCH, "--other.actors.env_threads=2"]  # By which their programs are the same.
    assert tool.main(["benchmark.py", "--config", CATCH, *arguments]) == 0

    assert compiled == [0, 0]  # Both before the first turn.
    assert turns == [1, 2, 1, 2]
    report = json.loads(Path("report.json").read_text())
    assert report["machine"]["matmul_gflops"]["median"] > 0
    a, b = report["runs"]["A"], report["runs"]["B"]
    assert a["config"]["network"]["hidden_sizes"] == b["config"]["network"]["hidden_sizes"] == [8]
    assert (a["config"]["actors"]["env_threads"], b["config"]["actors"]["env_threads"]) == (1, 2)
    assert a["config"]["env"]["options"] == {"height": 8}
    assert all(len(run["samples"]) == 2 and run["frames_per_second"]["median"] > 0 for run in (a, b))
    text = capsys.readouterr().out
    assert "actors.env_threads (1, 2)" in text
    assert all(word in text for word in ("B / A", "frames/s", "GFLOP/s"))


def test_memory_is_that_of_the_compiled_update_with_parameters_laid_out_as_in_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = [
        "--config",
        CATCH,
        "--smoke",
        "--memory",
        "--json",
        "report.json",
        "--config.network.hidden_sizes=(256,256)",
    ]
    config += ["--config.topology.actor_devices_per_process=1", "--config.topology.learner_devices_per_process=4"]
    memory = {}
    for style in ("replicated", "fsdp"):
        assert tool.main(["benchmark.py", *config, f"--config.topology.sharding={style}"]) == 0
        memory[style] = json.loads(Path("report.json").read_text())["update_memory_bytes"]
    assert all(0 < found["state_bytes"] < found["argument_bytes"] for found in memory.values())
    assert memory["fsdp"]["state_bytes"] < 0.45 * memory["replicated"]["state_bytes"]  # 82 % of it is split over 4.
    text = capsys.readouterr().out
    assert re.search(r"iB; between devices: all-reduce \S+ [KM]iB; 8 parameters, whole on every learner device\.", text)
    assert "iB; 1 of 8 parameters, 82.0% of their bytes, split over 4 devices." in text
    assert "env steps/s" not in text


def test_the_ratio_is_taken_inside_a_pair():
    # The machine is half as fast in the second pair; the ratio does not see that.
    samples = {"A": [sample(1000.0), sample(500.0)], "B": [sample(1500.0), sample(750.0)]}
    ratio = relations.relate_runs(samples, {"A": 4, "B": 2})
    assert ratio["env_steps_per_second"] == pytest.approx({"median": 1.5, "min": 1.5, "max": 1.5})
    assert ratio["frames_per_second"] == pytest.approx({"median": 0.75, "min": 0.75, "max": 0.75})


def test_a_run_is_measured_after_its_warm_up(catch, outcomes):
    sample = whole_run.time_end_to_end(catch, seconds=0.0)
    assert outcomes[-1].counters.learner_steps == WARMUP_UPDATES + 1
    assert sample.env_steps == catch.config.env_steps_per_update == 8 * 4

    sample = whole_run.time_end_to_end(catch, seconds=0.05)
    assert sample.env_steps == (outcomes[-1].counters.learner_steps - WARMUP_UPDATES) * 8 * 4
    assert sample.wall_s >= 0.05


@pytest.mark.slow
def test_a_run_whose_rollouts_take_long_is_measured_by_its_updates():
    parts = make_parts(env__source="tests.envs.scripted", env__options={"sleep_s": 0.2})
    sample = whole_run.time_end_to_end(parts, seconds=0.0)
    assert sample.env_steps == 8 * 4
    assert sample.wall_s > 0.2 * 4 * parts.layout.pools_per_actor * 0.8


def test_the_first_update_is_timed_with_its_environments(catch, outcomes):
    def open_slowly(*args, **kwargs):
        time.sleep(0.5)
        pool = catch.source.make_pool(*args, **kwargs)
        receive = pool.recv
        pool.recv = lambda: (time.sleep(0.02), receive())[1]
        return pool

    slow = dataclasses.replace(catch.source, make_pool=open_slowly)
    seconds = whole_run.time_first_update(dataclasses.replace(catch, source=slow))
    assert [outcome.counters.learner_steps for outcome in outcomes] == [1]
    assert 0.5 * catch.layout.pools_per_actor + 0.02 * catch.config.actors.unroll_length < seconds < 20


def test_import_time_counts_from_the_start_of_the_process():
    code = "import time; time.sleep(0.3); from podrl.performance.benchmark import instruments as i"
    age_s = float(
        subprocess.run(
            [sys.executable, "-c", f"{code}; print(i.process_age_s())"], capture_output=True, check=True
        ).stdout
    )
    assert 0.3 < age_s < 60


def test_a_product_counts_multiplications_and_additions(monkeypatch, fast_yardsticks):
    seconds = itertools.count()
    monkeypatch.setattr(instruments.time, "perf_counter", lambda: float(next(seconds)))
    yardstick = instruments.MachineSpeed()  # Whatever is timed takes a second, so a single product is enough.
    yardstick.measure()
    assert yardstick.describe()["matmul_gflops"]["median"] * 1e9 == pytest.approx(2 * 256**3)


def test_runs_that_share_programs_start_afresh_and_compile_nothing(monkeypatch):
    config = make_config()
    programs = assemble(config, jax.devices()[:1]).compile()
    alone, _ = run(config)
    monkeypatch.delattr(Assembly, "compile")
    shared = [run(config, programs=programs)[0] for _ in range(2)]
    assert alone.compile_s > 0
    assert [outcome.compile_s for outcome in shared] == [0, 0]
    for outcome in shared:
        jax.tree.map(np.testing.assert_array_equal, outcome.state.params, alone.state.params)


def test_the_table_has_a_row_per_stage_and_fits_a_terminal():
    stages = {name: relations.summarize_samples([sample(123456.0), sample(98765.0)], 4) for name in STAGES}
    console = Console(width=80, file=io.StringIO(), force_terminal=True)
    report.show_stages(console, stages)
    lines = re.sub(r"\x1b\[[\d;]*m", "", console.file.getvalue()).splitlines()
    assert any("environments" in line for line in lines)
    assert sum("(395k to 494k)" in line for line in lines) == 6
    assert max(map(len, lines)) <= 80


OVERLAP = Overlap(several_pools=True, in_turn=False)


def test_ratios_are_taken_inside_a_repeat():
    # The machine is half as fast in the second repeat; the ratios do not see that.
    samples = {
        "env": [sample(1000.0), sample(500.0)],
        "act": [sample(400.0, cores=2.0), sample(200.0, cores=2.0)],
        "end_to_end": [sample(100.0), sample(50.0)],
    }
    result = relate_to_stages(samples, OVERLAP, cores=2)
    assert result["slowest_stage"] == "act"
    assert result["of_slowest_stage"] == pytest.approx({"median": 0.25, "min": 0.25, "max": 0.25})
    # Core-seconds per step: 0.001 + 0.005 in the first repeat, so 2 cores are full at 333.3 steps/s.
    assert result["bound_env_steps_per_second"]["max"] == pytest.approx(1000 / 3)
    assert result["bound"] == "cores"
    assert result["of_bound"] == pytest.approx({"median": 0.3, "min": 0.3, "max": 0.3})


def test_cores_that_others_had_are_not_held_against_a_run():
    samples = {"env": [sample(1000.0, cores=2.0, others=0.2)], "end_to_end": [sample(750.0, others=0.5)]}
    result = relate_to_stages(samples, OVERLAP, cores=2)
    assert result["of_bound"]["median"] == pytest.approx(0.75)
    assert result["of_bound_left"]["median"] == pytest.approx(1.0)
    line = list(report.bound_lines(result, 2))[1]
    assert line.startswith("Others, here or on its host, had 0.50 of the cores")
    assert line.endswith("it is 100% (100% to 100%).")
    samples["end_to_end"] = [sample(500.0, cores=1.0, others=2.0)]  # In a moment of a few ticks.
    assert relate_to_stages(samples, OVERLAP, cores=2)["of_bound_left"]["median"] == pytest.approx(1.0)


def test_others_had_what_this_process_did_not_have():
    start = instruments.Clocks(wall_s=0.0, core_s=5.0, busy_s=100.0)
    assert start.sample(1, instruments.Clocks(wall_s=2.0, core_s=6.0, busy_s=104.0)).others_cores == 1.5
    assert start.sample(1, instruments.Clocks(wall_s=2.0, core_s=8.0, busy_s=102.0)).others_cores == 0


def test_what_takes_most_of_the_cores_limits_a_run():
    costs = {"env": 1e-4, "act": 2e-4, "learn": 7e-4, "end_to_end": 11e-4}
    stages = {name: {"core_seconds_per_env_step": {"median": cost}} for name, cost in costs.items()}
    expected = "What limits it: learning, with 70% of the core time that the stages take; acting 20%, environments 10%."
    assert report.limit_line(stages) == expected


def test_without_shared_cores_the_slowest_stage_is_the_bound():
    samples = {"env": [sample(100.0)], "learn": [sample(400.0)], "end_to_end": [sample(50.0)]}
    result = relate_to_stages(samples, OVERLAP, cores=math.inf)
    assert result["bound"] == "collect"
    assert result["of_bound"]["median"] == pytest.approx(0.5)
    assert result["bound_env_steps_per_second"]["median"] == pytest.approx(100.0)
    (line,) = report.bound_lines(result, 2)
    assert line.startswith(
        "End to end is 50% (50% to 50%) of its bound, the slowest stage alone: environments with 100"
    )


def test_stages_that_follow_each_other_add_up():
    samples = {"env": [sample(100.0)], "learn": [sample(100.0)], "end_to_end": [sample(25.0)]}
    result = relate_to_stages(samples, dataclasses.replace(OVERLAP, in_turn=True), cores=math.inf)
    assert result["of_bound"]["median"] == pytest.approx(0.5)
    (line,) = report.bound_lines(result, 2, in_turn=True)
    assert line.startswith("End to end is 50% (50% to 50%) of its bound, its stages one after the other: 50")


def test_the_bound_that_counts_comes_first():
    samples = {"env": [sample(400.0, cores=2.0)], "end_to_end": [sample(100.0)]}
    lines = list(report.bound_lines(relate_to_stages({**samples, "learn": samples["env"]}, OVERLAP, 2), 2))
    assert lines[0].startswith("End to end is 50% (50% to 50%) of its bound, the cores: at 200")
    assert "25% (25% to 25%) of the slowest stage" in lines[1]


def test_actors_are_measured_together_with_what_they_hand_on(catch):
    found = stages.time_collect(catch, seconds=0.05)
    assert found.env_steps % catch.config.env_steps_per_update == 0
    assert found.wall_s >= 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: --config"),
        (["--config", "nowhere.py"], "nowhere.py does not exist"),
        (
            ["--config", CATCH, "--config.agent.optimizer.lerning_rate=1"],
            "did you mean 'agent.optimizer.learning_rate'",
        ),
        (["--config", CATCH, "--second", "1"], "Unknown argument '--second'"),
        (["--config", CATCH, "--repeats", "0"], "--repeats=0 must lie in [1, 1e6]"),
        (["--config", CATCH, "--json", "nowhere/report.json"], "no such folder"),
        (["--config", CATCH, "--config.actors.num_envs=33"], "actors.num_envs=33 does not divide"),
        (["--config", CATCH, "--compare", "nowhere.py"], "--compare nowhere.py: Config file nowhere.py does not exist"),
        (["--config", CATCH, "--compare", CATCH, "--other.sed=1"], "Unknown config key 'sed'; did you mean 'seed'"),
        (["--config", CATCH, "--compare", CATCH, "--other.seed"], "--other.seed needs a value: --other.seed=VALUE"),
        (["--config", CATCH, "--compare", CATCH, "--other.actors.num_envs=-3"], "impala_catch.py: actors.num_envs=-3"),
        (["--config", CATCH, "--memory", "--compare", CATCH], "--memory is of one config. Leave out --compare"),
        (["--config", CATCH, "--other.seed=2"], "--other.seed=2 changes the compared config. Add --compare CONFIG"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, message, capsys):
    assert tool.main(["benchmark.py", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("benchmark: error: ")
    assert message in error
    assert "\n" not in error
