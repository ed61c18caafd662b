import io
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from podrl import benchmark, instruments, sebulba, stages
from podrl.benchmark import compare
from podrl.instruments import Sample
from podrl.mesh import make_topology
from tests.runs import make_agent, make_config, run
from tools import benchmark as tool

CATCH = str(Path(__file__).resolve().parent.parent / "configs" / "impala_catch.py")
STAGES = {"env", "act", "learn", "transfer", "end_to_end"}


def sample(rate: float, cores: float = 1.0) -> Sample:
    return Sample(env_steps=1000, wall_s=1000 / rate, core_s=cores * 1000 / rate)


def test_measures_every_stage_of_a_config(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(instruments, "_MATMUL_S", 0.05)
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
    assert report["machine"]["matmul_gflops"]["median"] > 0
    assert report["compile_s"] > 0
    assert report["peak_memory_bytes"]["process"] > 50 * 2**20
    assert report["end_to_end"]["slowest_stage"] in STAGES - {"end_to_end"}
    assert report["end_to_end"]["of_core_bound"]["median"] > 0

    text = capsys.readouterr().out
    assert all(heading in text for heading in ("env steps/s", "frames/s", "core-us/step", "Compile time"))
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_run_is_measured_after_its_warm_up(monkeypatch):
    asked = []

    def ask_only(config, *, should_stop, **parts):
        while not should_stop():
            asked.append(True)

    one_device = {f"topology__{who}_devices_per_process": 1 for who in ("actor", "learner")}
    parts = stages.make_parts(make_config(**one_device))
    monkeypatch.setattr(sebulba, "run", ask_only)
    sample = stages.time_end_to_end(parts, seconds=0.0)
    assert len(asked) == stages.WARMUP_UPDATES + 1
    assert sample.env_steps == parts.config.env_steps_per_update == 8 * 4

    asked.clear()
    sample = stages.time_end_to_end(parts, seconds=0.01)
    assert sample.env_steps == (len(asked) - stages.WARMUP_UPDATES) * 8 * 4
    assert sample.wall_s >= 0.01


def test_runs_that_share_programs_start_afresh_and_compile_nothing(monkeypatch):
    config = make_config()
    agent, spec = make_agent(config)
    programs = sebulba.compile_programs(config, agent, spec, make_topology(config.topology, jax.devices()[:1]))
    alone, _ = run(config)
    monkeypatch.delattr(sebulba, "compile_programs")
    shared = [run(config, programs=programs)[0] for _ in range(2)]
    assert alone.compile_s > 0
    assert [outcome.compile_s for outcome in shared] == [0, 0]
    for outcome in shared:
        jax.tree.map(np.testing.assert_array_equal, outcome.state.params, alone.state.params)


def test_the_table_has_a_row_per_stage_and_fits_a_terminal():
    stages = {name: benchmark.summarize([sample(123456.0), sample(98765.0)], 4) for name in STAGES}
    assert tool.make_table({"stages": stages}, plain=True).row_count == 5
    console = Console(width=80, file=io.StringIO())
    console.print(tool.make_table({"stages": stages}, plain=False))
    assert "environments" in console.file.getvalue()
    assert "(395k to 494k)" in console.file.getvalue()


def test_ratios_are_taken_inside_a_repeat():
    # The machine is half as fast in the second repeat; the ratios do not see that.
    samples = {
        "env": [sample(1000.0), sample(500.0)],
        "act": [sample(400.0, cores=2.0), sample(200.0, cores=2.0)],
        "end_to_end": [sample(100.0), sample(50.0)],
    }
    result = compare(samples, cores=2)
    assert result["slowest_stage"] == "act"
    assert result["of_slowest_stage"] == pytest.approx({"median": 0.25, "min": 0.25, "max": 0.25})
    # Core-seconds per step: 0.001 + 0.005 in the first repeat, so 2 cores are full at 333.3 steps/s.
    assert result["core_bound_env_steps_per_second"]["max"] == pytest.approx(1000 / 3)
    assert result["of_core_bound"] == pytest.approx({"median": 0.3, "min": 0.3, "max": 0.3})


def test_without_shared_cores_there_is_no_core_bound():
    result = compare({"env": [sample(100.0)], "end_to_end": [sample(50.0)]}, cores=None)
    assert result["of_core_bound"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: --config"),
        (["--config", "nowhere.py"], "nowhere.py does not exist"),
        (["--config", CATCH, "--config.agent.lerning_rate=1"], "did you mean 'agent.learning_rate'"),
        (["--config", CATCH, "--second", "1"], "Unknown argument '--second'"),
        (["--config", CATCH, "--repeats", "0"], "--repeats=0 must be at least 1"),
        (["--config", CATCH, "--json", "nowhere/report.json"], "no such folder"),
        (["--config", CATCH, "--config.actors.num_envs=33"], "actors.num_envs=33 does not divide"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, message, capsys):
    assert tool.main(["benchmark.py", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("benchmark: error: ")
    assert message in error
    assert "\n" not in error
