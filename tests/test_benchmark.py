import io
import json
from pathlib import Path

import jax
import pytest
from rich.console import Console

from podrl import benchmark
from podrl.benchmark import Sample, compare
from tools import benchmark as tool

CATCH = str(Path(__file__).resolve().parent.parent / "configs" / "impala_catch.py")
STAGES = {"env", "act", "learn", "transfer", "end_to_end"}


def sample(rate: float, cores: float = 1.0) -> Sample:
    return Sample(env_steps=1000, wall_s=1000 / rate, core_s=cores * 1000 / rate)


def test_measures_every_stage_of_a_config(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmark, "_MATMUL_S", 0.05)
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
    assert jax.config.jax_compilation_cache_dir is None


def test_the_window_of_a_run_excludes_warm_up():
    window = benchmark._Window(seconds=0.0)
    asked = [window.is_over() for _ in range(benchmark.WARMUP_UPDATES + 2)]
    assert asked == [False] * (benchmark.WARMUP_UPDATES + 1) + [True]
    assert window.sample(env_steps_per_update=80).env_steps == 80


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
