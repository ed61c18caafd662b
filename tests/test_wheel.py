"""podrl as a wheel, installed into a venv of its own, and used in a folder outside of the clone."""

import os
from pathlib import Path
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

from tests.processes import LIMIT_S, QUICK_TO_COMPILE, ROOT, read_rows

OWN_CONFIG = """
from {package} import common


def get_config():
    config = common.make_config("mine", "Catch-v0", total_env_steps=2_000)
    config.agent.name = "ppo"
    return config
"""
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel's path; the clone is as it was before."""
    before, folder = untracked(), tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    assert untracked() == before
    (path,) = folder.iterdir()
    return path


def untracked():
    """What is in the clone's top folder; tests that run beside this one may change it deeper down."""
    return {path.name for path in ROOT.iterdir() if path.suffix in ("", ".egg-info") and path.is_dir()}


@pytest.fixture(scope="module")
def program(wheel, tmp_path_factory):
    """`podrl` of a venv that shares the packages that podrl needs with this Python."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin/python", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "install", "--quiet", "--ignore-installed", "--no-deps", "--no-index", "--no-compile", wheel], check=True
    )
    (packages,) = folder.glob("lib/*/site-packages")
    (packages / "shared.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    return folder / "bin/podrl"


def run(program, *arguments, cwd):
    """Runs a command to its end, with nothing in its environment that leads to the clone."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    return subprocess.run(
        [program, *map(str, arguments)],
        cwd=cwd,
        env=environ | {"XLA_FLAGS": QUICK_TO_COMPILE},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )


def test_the_wheel_has_all_of_podrl_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {Path(name).parts[0].partition("-")[0] for name in names} == {"podrl"}
    assert not [name for name in names if "/tests/" in name or "__pycache__" in name]
    code = {str(path.relative_to(ROOT)) for path in (ROOT / "podrl").rglob("*.py")} - {"podrl/configs.py"}
    configs = {f"podrl/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.py")}
    values = {str(path.relative_to(ROOT)) for path in (ROOT / "podrl").rglob("*.json")}
    assert len(values) >= 1
    assert code | configs | values | {"podrl/py.typed"} == {name for name in names if name.startswith("podrl/")}


def test_what_shows_at_once(program, tmp_path):
    shown = run(program, "--help", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    for path in (ROOT / "podrl/commands").glob("[!_]*.py"):
        assert f"\n  {path.stem} " in shown.stdout
    unknown = run(program, "trian", cwd=tmp_path)
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert unknown.stderr == "podrl: error: There is no command 'trian'; did you mean 'train'? See podrl --help.\n"
    misspelt = run(program, "train", "--config", "impala_ctch", cwd=tmp_path)
    assert misspelt.returncode == 2
    (line,) = misspelt.stderr.splitlines()
    assert "nor one of podrl's own; did you mean 'impala_catch' or " in line
    empty = run(program, "evaluate", "--workdir", "nowhere", "--json", "no/where.json", cwd=tmp_path)
    assert empty.returncode == 2
    assert empty.stderr.startswith("evaluate: error: --json=")


def test_a_command_that_starts_others_does_so_by_the_installed_podrl(program, tmp_path):
    shown = run(program, "train", "--config=impala_catch", "--local_processes=2", "--dry_run", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count(f"{program.parent}/python -P -m podrl train --config=impala_catch --workdir=") == 2
    assert str(ROOT) not in shown.stdout
    flags = ("--slurm", "--nodes=1", "--gpus_per_node=0", "--env_nodes=1", "--workdir=w", "--dry_run")
    script = run(program, "train", "--config=impala_catch", *flags, cwd=tmp_path)
    assert script.returncode == 0, script.stderr
    for command in ("train --config", "env_worker --connect", "make_job_credentials --out"):
        assert f'"$python" -P -m podrl {command}' in script.stdout
    assert str(ROOT) not in script.stdout
    slice_ = ("--tpu=x", "--zone=z", "--workdir=gs://bucket/run", "--dry_run")
    refused = run(program, "train", "--config=impala_catch", *slice_, cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "podrl: error: --tpu ships podrl's clone" in refused.stderr


@SLOW
def test_trains_evaluates_and_plots(program, tmp_path):
    trained = run(program, "train", "--config", "impala_catch", "--smoke", "--workdir", "w", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert read_rows(tmp_path / "w")
    scores = run(program, "evaluate", "--workdir", "w", "--episodes", "4", "--json", "scores.json", cwd=tmp_path)
    assert scores.returncode == 0, scores.stderr
    assert (tmp_path / "scores.json").exists()
    drawn = run(program, "plot", "w", "--out", "curve.png", cwd=tmp_path)
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "curve.png").exists()


@SLOW
def test_two_processes_with_environment_workers(program, tmp_path):
    where = ("--local_processes", "2", "--env_workers", "2")
    trained = run(program, "train", "--config", "impala_catch_poly", "--smoke", *where, "--workdir", "w", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert read_rows(tmp_path / "w")


@SLOW
@pytest.mark.parametrize("package", ["podrl.configs", "configs"])
@pytest.mark.parametrize("folder", [".", "configs"])
def test_a_users_config_is_the_same_in_a_clone_and_with_a_wheel(program, tmp_path, package, folder):
    """Also in a folder `configs` of the user's own, which has no `__init__.py`."""
    file = tmp_path / folder / "mine.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text(OWN_CONFIG.format(package=package))
    shown = run(program, "train", "--config", file, "--help", cwd=tmp_path)
    in_clone = run(sys.executable, ROOT / "tools/tpu_launch.py", "--config", file, "--help", cwd=tmp_path)
    assert (shown.returncode, in_clone.returncode) == (0, 0), shown.stderr + in_clone.stderr
    own = f"Values of {file}"
    assert own in shown.stdout
    assert shown.stdout.partition(own)[2] == in_clone.stdout.partition(own)[2]
