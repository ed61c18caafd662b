"""The command that users run, as a process of its own; what goes wrong with one is in tests/faults/."""

from ctypes.util import find_library
import json
import signal

import jax
import pytest

from podrl.assembly import assemble, resolve
from podrl.config.commandline import load_config
from podrl.runtime.job.job import ALONE
from podrl.smoke_data import with_smoke_data
from tests.processes import ROOT, launch, num_rows, read_rows, running, wait_for

CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem not in ("__init__", "common"))
# Runs of each placement with actions and with action values; slow ones are of the other agents, and of sources and
# networks that open or compile longer. `.ci/run` begins with `impala_atari`, the README's first command.
RUN = ("impala_catch", "impala_minatar", "ppo_cartpole", "pqn_minatar")
RUN_SLOWLY = (
    "apex_minatar",
    "drq_cartpole_swingup_state",
    "impact_lunarlander",
    "ppo_lunarlander",
    "td3_halfcheetah",
    "vmpo_lunarlander",
)
RUN_SLOWLY += ("impala_metaworld", "impala_minigrid", "impala_procgen", "impala_vizdoom", "ppo_2048", "ppo_football")
RUN_SLOWLY += ("ppo_halfcheetah", "ppo_memory", "pqn_atari", "r2d2_memory", "sac_inverted_double_pendulum")
RUN_SLOWLY += ("rainbow_minatar", "vcr_atari100k")
# Their agents, sources and networks are those of others above, or of commands of the README.
RUN_RARELY = ("impala_pong", "r2d2_minigrid_memory", "sac_pendulum", "seed_r2d2_memory", "vcr_minatar")
# Configs of agents that learn from a data set. Each smoke form records one.
RUN_ON_DATA = ("bc", "cql", "iql", "misa", "td3_bc")
# A deep network's updates of as many images as users have would take most of the test's time.
FLAGS = dict.fromkeys(("impala_procgen", "pqn_atari"), ("--config.actors.num_envs=4",))
FLAGS["seed_r2d2_memory"] = ("--env_workers", "2")
FLAGS["impala_metaworld"] = ("--config.env.max_episode_steps=9",)  # So that episodes end.
# Configs that need a shared library of the system, and the Debian package that has it.
LIBRARIES = {"impala_procgen": ("Qt5Gui", "libqt5gui5")}


@pytest.fixture(scope="module")
def data_of(tmp_path_factory):
    """Returns (config) -> a folder of a few episodes for it, one for each environment."""

    def record(config):
        workdir = tmp_path_factory.getbasetemp() / config.env.id
        config.smoke = True
        return with_smoke_data(resolve(config), str(workdir), ALONE, steps=1).data.path

    return record


@pytest.mark.parametrize("name", CONFIGS)
def test_the_parts_of_every_config_fit_together(name, data_of):
    skip_without_library(name)
    config = load_config(ROOT / f"configs/{name}.py")
    if config.total_updates:  # It learns from a data set.
        config.data.path = data_of(load_config(ROOT / f"configs/{name}.py"))
    parts = assemble(resolve(config), jax.devices()[:1])
    assert jax.tree.leaves(parts.state_shape.params)


def skip_without_library(name):
    library, _ = LIBRARIES.get(name, (None, None))
    if library and not find_library(library):
        pytest.skip(f"There is no {library}.")


@pytest.mark.parametrize(
    "name",
    [
        *RUN,
        *(pytest.param(name, marks=pytest.mark.slow) for name in RUN_SLOWLY),
        *(pytest.param(name, marks=pytest.mark.long) for name in RUN_RARELY),
    ],
)
def test_a_smoke_form_runs_through(name, tmp_path):
    skip_without_library(name)
    flags = ("--smoke", *FLAGS.get(name, ()))
    result = launch("--config", ROOT / f"configs/{name}.py", *flags, "--workdir", "run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = read_rows(tmp_path / "run")
    assert [row["learner_steps"] for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) >= 5
    assert all(row[key] is not None for row in rows for key in ("fingerprint", "loss/total", "grad/norm"))
    config = json.loads((tmp_path / "run/config.json").read_text())
    if config["data"]["path"]:
        assert rows[-1]["data/samples_per_second"] > 0
        return
    if name == "impala_metaworld":
        assert 0 <= rows[-1]["episode/info/max:success"] <= 1
    later = 0 if config["topology"]["placement"] == "anakin" else config["actors"]["lag"]
    assert [row["lag/max"] for row in rows] == [0] + [later] * (len(rows) - 1)
    assert rows[-1]["env_steps_per_second"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN_ON_DATA)
def test_a_smoke_form_runs_through_that_learns_from_a_data_set(name, tmp_path):
    result = launch("--config", ROOT / f"configs/{name}.py", "--smoke", "--workdir", "run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    *rows, evaluated = read_rows(tmp_path / "run")
    assert [row["learner_steps"] for row in rows] == list(range(1, 7))
    assert all(row[key] is not None for row in rows for key in ("fingerprint", "loss/total", "grad/norm"))
    assert evaluated["evaluate/return"] > 0


def test_a_smoke_run_without_its_data_set_records_one_and_resumes_from_it(tmp_path):
    flags = ("--config.data.path=runs/none", "--config.total_updates=20", "--config.network.hidden_sizes=(16,)")
    arguments = ("--config", ROOT / "configs/td3_inverted_double_pendulum.py", "--smoke", *flags, "--workdir", "run")
    result = launch(*arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "--smoke: records 2,000 steps of random actions in" in result.stderr
    assert [row["learner_steps"] for row in read_rows(tmp_path / "run")] == list(range(1, 7))
    data = json.loads((tmp_path / "run/config.json").read_text())["data"]["path"]
    assert data == str(tmp_path / "run-smoke-data")
    again = launch(*arguments, cwd=tmp_path)
    assert again.returncode == 0
    assert "This run is finished: it has made 6 updates." in again.stderr


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_library_that_the_system_lacks_is_named_with_its_package(name, tmp_path):
    library, package = LIBRARIES[name]
    if find_library(library):
        pytest.skip(f"There is {library}.")
    result = launch("--config", ROOT / f"configs/{name}.py", "--smoke", "--workdir", "run", cwd=tmp_path)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("podrl: error: ")
    assert f"apt-get install {package}." in line


def test_a_run_leaves_what_the_documentation_promises(tmp_path):
    config = ROOT / "configs/impala_catch.py"
    result = launch("--config", config, "--smoke", "--config.seed=5", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (workdir,) = (tmp_path / "runs").iterdir()
    assert workdir.name.startswith("impala_catch-Catch-v0-2")
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


def test_ctrl_c_ends_the_run_with_its_summary_and_a_checkpoint(tmp_path):
    arguments = ("--config", ROOT / "configs/impala_catch.py", "--config.total_env_steps=100_000_000")
    with running(*arguments, "--workdir", "run", cwd=tmp_path) as process:
        wait_for(lambda: num_rows(tmp_path / "run") > 3, process)
        process.send_signal(signal.SIGINT)
        output, log = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted: impala_catch on Catch-v0" in output
    assert f"To resume: the same command with --workdir={tmp_path / 'run'}" in log
    (checkpoint,) = (tmp_path / "run/checkpoints").iterdir()
    assert int(checkpoint.name) >= read_rows(tmp_path / "run")[-1]["learner_steps"]
