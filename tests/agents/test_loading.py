"""What an agent's module must have for the rest of podrl to use it is checked where it is loaded."""

import sys

import pytest

from podrl import agents
from podrl.agents.parts.loading import agent_names, load_agent
from podrl.config.config import ConfigError

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
