"""What an agent's module must have for the rest of podrl to use it is checked where it is loaded."""

import sys

import pytest

from configs import common
from podrl import agents
from podrl.agents.parts import loading
from podrl.agents.parts.loading import agent_defaults, agent_names, load_agent
from podrl.assembly import resolve
from podrl.config.commandline import load_config
from podrl.config.config import ConfigError
from podrl.config.config_files import find_example, is_own_config
from podrl.config.overrides import override
from tests.agents import minimal
from tests.processes import ROOT

HEAD = "import dataclasses\nfrom podrl.agents.parts.interface import UpdateShape\n"
CONFIG = "@dataclasses.dataclass(frozen=True)\nclass AgentConfig:\n    name: str = 'own'\n"
SHAPE = "    @property\n    def update_shape(self):\n        return UpdateShape({})\n"


@pytest.fixture
def load_own(tmp_path, monkeypatch):
    """Loads an agent of the given source."""

    def load(source):
        (tmp_path / "own.py").write_text(source)
        monkeypatch.setattr(agents, "__path__", [*agents.__path__, str(tmp_path)])
        monkeypatch.delitem(sys.modules, "podrl.agents.own", raising=False)
        return load_agent("own")

    yield load
    sys.modules.pop("podrl.agents.own", None)
    vars(agents).pop("own", None)


@pytest.mark.parametrize("name", agent_names())
def test_every_shipped_agent_can_be_loaded(name):
    assert load_agent(name).AgentConfig().name == name


def test_an_agent_that_has_all_is_loaded(load_own):
    own = load_own(HEAD + CONFIG + "    epochs: int = 2\n" + SHAPE.format("minibatches=3, epochs=self.epochs"))
    assert own.AgentConfig().update_shape.optimizer_steps == 6


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "has no dataclass AgentConfig."),
        ("class AgentConfig:\n    name = 'own'\n", "has no dataclass AgentConfig."),
        (HEAD + CONFIG.replace(" = 'own'", "") + SHAPE.format(""), "AgentConfig has no default for name."),
        (HEAD + CONFIG, "AgentConfig.update_shape is None; expected a property that returns an UpdateShape"),
        (HEAD + CONFIG + "    update_shape: int = 3\n", "AgentConfig.update_shape is 3; expected"),
        (HEAD + CONFIG + SHAPE.format("minibatches=0"), "expected a property that returns an UpdateShape of at least"),
        (HEAD + CONFIG + SHAPE.format("epochs=2"), "has 2 epochs, but there is no field of that name."),
    ],
)
def test_what_an_agents_config_lacks_is_one_line(load_own, source, said):
    with pytest.raises(ConfigError) as caught:
        load_own(source)
    assert str(caught.value).startswith("podrl/agents/own.py")
    assert said in str(caught.value)


class TestAnAgentWithoutAnOptimizer:
    @pytest.fixture(autouse=True)
    def is_there(self, monkeypatch):
        monkeypatch.setattr(loading, "agent_names", lambda: ["impala", "minimal", "ppo"])
        monkeypatch.setitem(sys.modules, "podrl.agents.minimal", minimal)

    def resolve(self, *arguments):
        config = common.make_config("own", "Catch-v0", total_env_steps=10_000)
        return resolve(override(config, ["--config.agent.name=minimal", *arguments])).agent

    def test_takes_the_empty_section_that_configs_begin_with(self):
        assert self.resolve("--config.agent.minibatches=2") == minimal.AgentConfig(minibatches=2)

    def test_refuses_a_key_of_such_a_section(self):
        with pytest.raises(
            ConfigError, match=r"Unknown config key 'agent\.optimizer' \(it is of 'impala'; agent\.name is"
        ):
            self.resolve("--config.agent.optimizer.name=adam")

    def test_is_not_told_of_new_names_of_keys_that_it_lacks(self):
        config = common.make_config("own", "Catch-v0", total_env_steps=10_000)
        config.agent.update(name="minimal", learning_rate=1.0)
        with pytest.raises(ConfigError) as caught:
            resolve(config)
        assert "which is" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "arguments", "said"),
    [
        (
            "impala_catch",
            ["agent.epochs=3"],
            "Unknown config key 'agent.epochs' (it is of 'ppo'; agent.name is 'impala').",
        ),
        (
            "impala_catch",
            ["agent.name=ppo"],
            "agent.name='ppo' does not go with this config, which sets agent.optimizer.learning_rate, "
            "agent.optimizer.name for 'impala'. Start from a config of its own, such as ppo_catch, "
            "instead of changing agent.name.",
        ),
        (
            "impala_catch",
            ["agent.optimizer.name=adam", "agent.name=ppo", "agent.epochs=3"],
            "agent.name='ppo' does not go with this config, which sets agent.optimizer.learning_rate for 'impala'. "
            "Start from a config of its own, such as ppo_catch, instead of changing agent.name.",
        ),
        (
            "ppo_catch",
            ["agent.name=impala"],
            "agent.name='impala' does not go with this config: its agent.shuffle is a key of 'ppo'. Start from a "
            "config of its own, such as impala_catch, instead of changing agent.name.",
        ),
    ],
)
def test_what_does_not_go_with_an_agent_is_one_line(file, arguments, said):
    with pytest.raises(ConfigError) as caught:
        resolve(override(load_config(str(ROOT / f"configs/{file}.py")), [f"--config.{each}" for each in arguments]))
    assert str(caught.value) == said


def test_the_example_of_an_agent_is_there():
    assert all(is_own_config(find_example(name)) for name in agent_names())
    assert find_example("none") is None


def test_the_agent_can_be_changed_where_nothing_of_the_files_is_left():
    config = load_config(str(ROOT / "configs/impala_catch.py"))
    again = override(config, ["--config.agent.name=ppo", "--config.agent.name=impala"])
    assert resolve(again) == resolve(config)
    typed = ["agent.name=ppo", "agent.epochs=3", "agent.optimizer.name=adam", "agent.optimizer.learning_rate=1e-3"]
    agent = resolve(override(config, [f"--config.{each}" for each in typed])).agent
    assert (agent.name, agent.epochs, agent.optimizer.learning_rate) == ("ppo", 3, 1e-3)
    bare = common.make_config("own", "Catch-v0", total_env_steps=10_000)
    bare.agent.name = "impala"
    agent = resolve(override(bare, ["--config.agent.name=ppo"])).agent
    assert agent == load_agent("ppo").AgentConfig()
    assert type(agent.name) is str


def test_help_goes_without_the_agents_defaults_where_jax_cannot_be_imported(monkeypatch):
    def fail(name):
        raise RuntimeError("no device")

    monkeypatch.setattr(loading, "load_agent", fail)
    assert agent_defaults("impala") == {}
