"""The command that users run, as a process of its own."""

import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem not in ("__init__", "common"))
SCRIPTED = """
from configs import impala_catch
import ml_collections

def get_config():
    config = impala_catch.get_config()
    config.env.source = "tests.envs.scripted"
    config.env.id = "scripted"
    config.env.options = ml_collections.ConfigDict({"raise_at_step": 0, "hang_at_step": 0, "sleep_s": 0.0})
    return config
"""


def command(*arguments):
    return [sys.executable, str(ROOT / "tools/tpu_launch.py"), *map(str, arguments)]


def environment():
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return {**env, "PYTHONPATH": str(ROOT)}


def launch(*arguments, cwd):
    return subprocess.run(command(*arguments), cwd=cwd, env=environment(), capture_output=True, text=True, timeout=300)


def read_rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def scripted(tmp_path):
    path = tmp_path / "scripted_config.py"
    path.write_text(SCRIPTED)
    return path


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_runs_through_in_its_smoke_form(name, tmp_path):
    result = launch("--config", ROOT / f"configs/{name}.py", "--smoke", "--workdir", "run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = read_rows(tmp_path / "run")
    assert [row["learner_steps"] for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) >= 5
    assert [row["lag/max"] for row in rows] == [0] + [1] * (len(rows) - 1)
    assert all(row[key] is not None for row in rows for key in ("fingerprint", "loss/total", "grad/norm"))
    assert rows[-1]["env_steps_per_second"] > 0


def test_a_run_leaves_what_the_documentation_promises(tmp_path):
    config = ROOT / "configs/impala_catch.py"
    result = launch("--config", config, "--smoke", "--config.seed=5", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (workdir,) = (tmp_path / "runs").iterdir()
    assert workdir.name.startswith("impala_catch-2")
    assert json.loads((workdir / "config.json").read_text())["seed"] == 5
    manifest = json.loads((workdir / "manifest.json").read_text())
    assert manifest["seed"] == 5
    assert {"jax", "envpool", "podrl"} <= set(manifest["versions"])
    assert manifest["topology"]["learner"] == {"data": 1, "model": 1}
    assert list((workdir / "tensorboard").glob("events*"))
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["6"]
    assert "finished: impala_catch on Catch-v0" in result.stdout
    assert str(workdir.relative_to(tmp_path)) in result.stdout


def test_libraries_stay_quiet(tmp_path):
    result = launch("--config", ROOT / "configs/impala_lunarlander.py", "--smoke", cwd=tmp_path)
    assert [line for line in result.stderr.splitlines() if not line.startswith("[p0 ")] == []
    assert "warning" not in (result.stdout + result.stderr).lower()


def test_an_environment_that_raises_ends_the_run_with_exit_code_one(scripted, tmp_path):
    result = launch("--config", scripted, "--config.env.options.raise_at_step=100", cwd=tmp_path)
    assert result.returncode == 1
    assert "The run failed: actor 0 failed: RuntimeError: scripted failure at step 100" in result.stderr
    assert "Traceback" in result.stderr  # of the environment's own error, below the line that names it


def test_an_environment_that_hangs_ends_the_run_with_the_stacks_of_its_threads(scripted, tmp_path):
    options = ("--config.env.options.hang_at_step=50", "--config.actors.timeout_s=3.0")
    start = time.monotonic()
    result = launch("--config", scripted, *options, cwd=tmp_path)
    assert result.returncode == 124
    assert "The learner waited 3 s for a rollout: actor 0 has been in 'env'" in result.stderr
    assert "tests/envs/scripted.py" in result.stderr.partition("Stacks")[2]
    assert time.monotonic() - start < 60


def test_sigterm_ends_a_run_whose_environment_hangs_and_saves_what_it_has(scripted, tmp_path):
    options = ("--config.env.options.hang_at_step=50", "--config.log.every_updates=1", "--workdir", "run")
    process = subprocess.Popen(command("--config", scripted, *options), cwd=tmp_path, env=environment())
    try:
        wait_for(lambda: (tmp_path / "run/metrics.jsonl").exists() and len(read_rows(tmp_path / "run")) == 1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=40) == 75
    finally:
        process.kill()
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["2"]


def test_ctrl_c_ends_the_run_with_its_summary_and_a_checkpoint(tmp_path):
    arguments = command(
        "--config", ROOT / "configs/impala_catch.py", "--config.total_env_steps=100_000_000", "--workdir", "run"
    )
    pipe = subprocess.PIPE
    process = subprocess.Popen(arguments, cwd=tmp_path, env=environment(), stdout=pipe, stderr=pipe, text=True)
    try:
        wait_for(lambda: (tmp_path / "run/metrics.jsonl").exists() and len(read_rows(tmp_path / "run")) > 3)
        process.send_signal(signal.SIGINT)
        output, log = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted: impala_catch on Catch-v0" in output
    assert "To go on: the same command with --workdir=run" in log
    (checkpoint,) = (tmp_path / "run/checkpoints").iterdir()
    assert int(checkpoint.name) >= read_rows(tmp_path / "run")[-1]["learner_steps"]


def wait_for(condition, timeout_s=120.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
