"""A user's own modules that are called as folders and programs of podrl's."""

import os
from pathlib import Path
import subprocess
import sys

import pytest

from podrl.config import commandline
from podrl.config.config import ConfigError
from podrl.config.programs import ROOT

CATCH = ROOT / "configs/impala_catch.py"
ENVIRONMENT = """
import gymnasium

class Small(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (3,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 1.0, False, True, {}
"""
LAUNCH = """
import runpy, sys
sys.argv = ["tpu_launch.py", "--config", {config!r}, "--help"]
try:
    runpy.run_path({program!r}, run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
import {module}
print("found", {module}.__file__)
"""


def printed(program, folder, **environ):
    """What a program prints that is run by a Python whose path begins with podrl's `tools/`, as of its commands."""
    (folder / "program.py").write_text(f"import sys; sys.path[0] = {str(ROOT / 'tools')!r}\n{program}")
    keep = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        [sys.executable, "program.py"], cwd=folder, env=keep | environ, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout.splitlines()


def write(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("module", ["configs.mine", "evaluate", "plan", "tests.mine"])
@pytest.mark.parametrize("where", ["working folder", "PYTHONPATH", "folder without __init__"])
def test_a_users_module_is_found_beside_podrls_own_config(tmp_path, module, where):
    folder = tmp_path / ("own" if where == "PYTHONPATH" else ".")
    path = (folder / module.replace(".", "/")).with_suffix(".py")
    write(path)
    if "." in module and where != "folder without __init__":
        write(path.parent / "__init__.py")
    environ = {"PYTHONPATH": str(folder)} if where == "PYTHONPATH" else {}
    program = LAUNCH.format(config=str(CATCH), program=str(ROOT / "tools/tpu_launch.py"), module=module)
    assert printed(program, tmp_path, **environ)[-1] == f"found {path.resolve()}"


def test_a_folder_configs_without_init_has_a_users_configs_that_build_on_podrls(tmp_path):
    write(tmp_path / "configs/mine.py", "steps = 1234")
    write(
        tmp_path / "configs/run.py",
        "from configs import common, mine\n"
        "def get_config():\n"
        "    return common.make_config('run', 'Catch-v0', total_env_steps=mine.steps)\n",
    )
    program = LAUNCH.format(config="configs/run.py", program=str(ROOT / "tools/tpu_launch.py"), module="configs.mine")
    said = printed(program, tmp_path)
    assert "  total_env_steps = 1234" in said
    assert said[-1] == f"found {(tmp_path / 'configs/mine.py').resolve()}"


def test_every_tool_finds_a_source_in_the_working_folder(tmp_path):
    write(
        tmp_path / "my_sources/made.py",
        "from podrl.envs.source import Source\nSOURCE = Source(make_spec=lambda: __file__, make_pool=print)",
    )
    program = """
sys.path[0] = {root!r}
from podrl.envs.source import load_source
from podrl.runtime.tool import run_tool

sys.exit(run_tool("test", lambda: print("found", load_source("my_sources.made").make_spec())))
"""
    found = printed(program.format(root=str(ROOT)), tmp_path)[-1]
    assert found == f"found {(tmp_path / 'my_sources/made.py').resolve()}"


def test_podrls_configs_do_not_hide_a_package_that_is_imported_later_or_was_before(tmp_path, monkeypatch):
    write(tmp_path / "configs/__init__.py")
    write(tmp_path / "configs/mine.py", "value = 3")
    monkeypatch.chdir(tmp_path)
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "configs"}
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry and Path(entry).resolve() != ROOT])
    for name in before:
        monkeypatch.delitem(sys.modules, name)
    try:
        for _ in range(2):
            assert commandline.load_config(str(CATCH)).name == "impala_catch"
            from configs import mine

            assert mine.value == 3
        write(tmp_path / "configs/own.py", "from configs import mine\nfrom configs import common")
        said = rf"cannot import name 'common'.* Here configs is the package in {tmp_path}"
        with pytest.raises(ConfigError, match=said):
            commandline.load_config(str(tmp_path / "configs/own.py"))
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "configs"]:
            del sys.modules[name]
        sys.modules.update(before)


def test_an_environment_in_a_module_called_as_a_program_of_podrls_is_played_in_workers(tmp_path):
    write(tmp_path / "evaluate.py", ENVIRONMENT)
    program = """
from podrl.runtime.tool import run_tool
from podrl.config.config import EnvConfig
from podrl.envs.sources.gymnasium import make_pool

def run():
    pool = make_pool(EnvConfig(source="gymnasium", id="evaluate:Small", workers=2), seeds=[1, 2], num_threads=1)
    print("played", pool.reset().observation.shape)
    pool.close()

if __name__ == "__main__":
    sys.exit(run_tool("test", run))
"""
    prelude = f"sys.path.insert(0, {str(ROOT)!r})\n"
    assert printed(prelude + program, tmp_path)[-1] == "played (2, 3)"
