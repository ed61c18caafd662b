"""An algorithm of a user's own: found by its module's name, here and in several processes, and told from podrl's."""

import json
import subprocess
import sys

import pytest

from podrl.agents.parts.loading import agent_defaults, find_config_type, load_agent
from podrl.config.config import ConfigError
from tests.processes import LIMIT_S, ROOT, environment, launch, read_rows

HEAD = "import dataclasses\nfrom podrl.agents.parts.interface import UpdateShape\n"
CONFIG = """@dataclasses.dataclass(frozen=True)
class AgentConfig:
    name: str = __name__
    warmth: float = 1.0

    @property
    def update_shape(self):
        return UpdateShape()
"""
MAKE = "def make_agent(config, **_): ...\n"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes a package with an agent of the given source, and returns the agent's name."""
    monkeypatch.chdir(tmp_path)

    def write(source, package):
        (tmp_path / package).mkdir()
        (tmp_path / package / "agent.py").write_text(source)
        return f"{package}.agent"

    return write


def test_a_module_in_the_working_folder_is_found(own):
    name = own(HEAD + CONFIG + MAKE, "package_a")
    assert load_agent(name).AgentConfig().warmth == 1.0
    assert agent_defaults(name) == {"name": name, "warmth": 1.0}
    assert find_config_type({"name": name, "warmth": 2.0}) is load_agent(name).AgentConfig


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (HEAD + CONFIG, "has no make_agent; expected a function make_agent(config, *, networks, spec,"),
        (HEAD + CONFIG + "make_agent = 3\n", "has something else named make_agent; expected"),
        (HEAD + MAKE, "has no dataclass AgentConfig. Add one."),
        (HEAD + CONFIG.replace("__name__", "'other'") + MAKE, "AgentConfig.name is 'other' by default; expected"),
        ("import absent_library\n", "needs a module that is not installed: No module named 'absent_library'"),
        ("1 / 0\n", "failed while it was imported: ZeroDivisionError: division by zero"),
    ],
)
def test_what_it_lacks_is_one_line(own, source, said):
    name = own(source, f"package_{abs(hash(source))}")
    with pytest.raises(ConfigError) as caught:
        load_agent(name)
    assert str(caught.value).startswith(f"agent.name={name!r}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("absent.agent", "agent.name='absent.agent': there is no module 'absent.agent', neither on Python's path nor"),
        ("impalla", "agent.name='impalla' is not known; did you mean 'impala'? Available: bc, drq, impact, "),
        ("not a name", "agent.name='not a name' is not known."),
    ],
)
def test_a_name_that_no_module_has_is_one_line(name, said):
    with pytest.raises(ConfigError) as caught:
        load_agent(name)
    assert str(caught.value).startswith(said)


def test_the_example_trains_and_resumes_from_another_folder(tmp_path):
    """Both of its modules are beside the config file."""
    arguments = ["--config", ROOT / "examples/a2c_catch.py", "--smoke", "--workdir", "run"]
    small = ["--config.network.encoder=transformer:Transformer(layers=1, size=8)", "--config.agent.lambda_=0.9"]
    result = launch(*arguments, *small, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert read_rows(tmp_path / "run")[-1]["learner_steps"] == 6
    wrong = launch(*arguments, *small, "--config.agent.lambda_=2", cwd=tmp_path)
    assert wrong.returncode == 2
    assert wrong.stderr.strip() == "podrl: error: agent.lambda_=2.0 must lie in [0, 1]."


LOADED = """
import sys

import podrl

for folder in (None, *sys.argv[1:]):
    if folder:
        sys.path.append(folder)
    try:
        print(podrl.load_policy("run").run.config.agent.name)
    except podrl.ConfigError as error:
        print(error)
"""


def test_a_run_of_the_example_is_opened_while_its_modules_are_beside_its_config(tmp_path):
    """Only the first config's folder is noted by the run, in which no command is typed."""
    mine, moved, agent = (tmp_path / name for name in ("mine", "moved", "agent"))
    for folder in (mine, agent):
        folder.mkdir()
    for name in ("a2c", "a2c_catch", "transformer"):
        (mine / f"{name}.py").write_text((ROOT / f"examples/{name}.py").read_text())
    (agent / "a2c.py").write_text((mine / "a2c.py").read_text())
    small = "--config.network.encoder=transformer:Transformer(layers=1, size=8)"
    result = launch("--config", mine / "a2c_catch.py", "--smoke", "--workdir", "run", small, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "run/manifest.json").read_text())["config_folders"] == [str(mine)]
    evaluate = ["--workdir", "run", "--episodes", "2", "--policy", "greedy"]
    result = launch(*evaluate, cwd=tmp_path, program=ROOT / "tools/evaluate.py")
    assert result.returncode == 0, result.stderr

    mine.rename(moved)
    code = [sys.executable, "-c", LOADED, str(agent), str(moved)]
    loaded = subprocess.run(code, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=LIMIT_S)
    without_agent, without_network, name = loaded.stdout.splitlines()
    place, remedy = (
        f"{tmp_path}/run/config.json cannot be read: ",
        "Run this in the folder of your module, or with that on PYTHONPATH.",
    )
    assert without_agent.startswith(f"{place}agent.name='a2c' is not known")
    assert without_network.startswith(f"{place}network.encoder='transformer:Transformer(")
    assert without_agent.endswith(remedy)
    assert without_network.endswith(remedy)
    assert name == "a2c"


@pytest.mark.slow
def test_the_example_trains_in_several_processes(tmp_path):
    arguments = ["--config", ROOT / "examples/a2c_catch.py", "--smoke", "--workdir", "run", "--local_processes", "2"]
    small = "--config.network.encoder=transformer:Transformer(layers=1, size=8)"
    result = launch(*arguments, small, "--config.agent.lambda_=0.9", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert read_rows(tmp_path / "run")[-1]["learner_steps"] == 6
