"""An agent's optimizer is a section of its own; what its keys were called before is understood or said."""

import dataclasses
import json

import ml_collections
import pytest

from configs import common
from podrl.agents.parts.loading import load_agent
from podrl.assembly import resolve
from podrl.config.commandline import load_config
from podrl.config.config import ConfigError
from podrl.config.config_dict import differences, to_dict, with_defaults
from podrl.config.overrides import override
from podrl.config.renamed import RENAMED, with_new_names
from tests.short_runs import make_config


@pytest.mark.parametrize("agent", ["impala", "ppo"])
def test_a_config_that_an_earlier_podrl_wrote_means_the_same(agent):
    """Its agent had the keys of its one optimizer among its own."""
    config = make_config(agent=agent, agent__optimizer__learning_rate=0.02)
    now = json.loads(json.dumps(to_dict(config)))
    optimizer, topology = now["agent"].pop("optimizer"), now["topology"]
    values = {**optimizer, **{name: topology.pop(name) for name in ("micro_batches", "micro_batch_loop", "step_loop")}}
    renamed = {old.removeprefix("agent."): new for old, new in RENAMED.items() if old.startswith("agent.")}
    earlier = {old: values[new.rpartition(".")[2]] for old, new in renamed.items()}
    if agent == "ppo":  # It had Adam alone.
        for name in ("optimizer", "rmsprop_decay", "epsilon_inside_root"):
            del earlier[name]
    written = {**now, "agent": {**now["agent"], **earlier}}
    assert differences(with_defaults(written, load_agent(agent).AgentConfig), to_dict(config)) == {}
    assert with_new_names(to_dict(config)) == to_dict(config)


def test_keys_that_a_file_leaves_out_are_the_agents_own_and_not_any_optimizers():
    config = dataclasses.replace(make_config())
    values = to_dict(config)
    values["agent"]["optimizer"] = {"learning_rate": 0.5}
    assert with_defaults(values, load_agent("impala").AgentConfig)["agent"]["optimizer"]["name"] == "rmsprop"


@pytest.mark.parametrize("name", ["impala", "ppo"])
def test_a_config_without_the_section_has_the_agents_own_optimizer(name):
    config = ml_collections.ConfigDict({**common.make_config("x", "Catch-v0", 1000), "agent": {"name": name}})
    assert resolve(config).agent == load_agent(name).AgentConfig()


def test_another_agents_own_key_of_such_a_name_is_left_alone():
    values = {"agent": {"name": "dqn", "epsilon": 0.05, "loop": 3}, "topology": {}}
    assert with_new_names(values) == values


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "config.agent.learning_rate = 1e-3",
            "Unknown config key 'agent.learning_rate', which is 'agent.optimizer.learning_rate' now.",
        ),
        ("config.agent = {'name': 'impala', 'epsilon': 1e-3}", "which is 'agent.optimizer.epsilon' now."),
        ("config.agent = {'name': 'impala', 'optimizer': 'adam'}", "What it was is agent.optimizer.name now."),
    ],
)
def test_a_config_file_with_an_earlier_name_is_told_the_new_one(tmp_path, line, said):
    path = tmp_path / "own.py"
    path.write_text(
        "from configs import impala_catch\n\n\ndef get_config():\n"
        f"    config = impala_catch.get_config()\n    {line}\n    return config\n"
    )
    with pytest.raises(ConfigError) as caught:
        resolve(load_config(str(path)))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("config", "key", "said"),
    [
        ("pqn_catch", "epsilon", "did you mean 'agent.epsilon_start' or 'agent.epsilon_end' or 'agent.epsilon_decay'?"),
        ("pqn_catch", "learning_rate", "did you mean 'agent.optimizer.learning_rate'?"),
        ("impact_lunarlander", "epsilon", "did you mean 'agent.optimizer.epsilon'?"),
        ("ppo_catch", "epsilon", "which is 'agent.optimizer.epsilon' now."),
    ],
)
def test_agents_that_never_had_an_earlier_name_are_not_told_of_it(config, key, said):
    found = override(load_config(f"configs/{config}.py"), [f"--config.agent.{key}=0.05"])
    with pytest.raises(ConfigError) as caught:
        resolve(found)
    separator = ", " if said.startswith("which") else "; "
    assert str(caught.value) == f"Unknown config key 'agent.{key}'{separator}{said}"


def test_an_agent_takes_the_optimizer_and_the_keys_that_a_config_leaves_out(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        "from configs import impala_catch\n\n\ndef get_config():\n    config = impala_catch.get_config()\n"
        "    config.agent = {'name': 'impala', 'optimizer': {'learning_rate': 0.25}}\n    return config\n"
    )
    optimizer = resolve(load_config(str(path))).agent.optimizer
    assert (optimizer.name, optimizer.learning_rate) == ("rmsprop", 0.25)
