"""Every value of every key is either refused in one line, or makes sense."""

import dataclasses
import os

import ml_collections
import pytest

from docs.make_config_reference import reference
from podrl.agents.parts.loading import agent_names, load_agent
from podrl.assembly import resolve
from podrl.config.augment import AugmentConfig
from podrl.config.auxiliary import AuxiliaryConfig
from podrl.config.config import Config, ConfigError
from podrl.config.config_dict import default_sections
from podrl.config.optimizer import OptimizerConfig
from podrl.config.popart import PopArtConfig
from podrl.config.ranges import values_of
from tests import hostile
from tests.processes import ROOT

NUM_QUICK = 400


def complaint_about(base="impala", /, **values):
    """What `resolve` says to a config with these values, whose keys have `__` for dots."""
    config = hostile.replace(hostile.base(base), {key.replace("__", "."): value for key, value in values.items()})
    with pytest.raises(ConfigError) as error:
        resolve(config)
    return str(error.value)


@pytest.mark.parametrize("seed", [0])
def test_hostile_values_are_refused_in_a_line_or_make_sense(seed):
    cases = hostile.sample(NUM_QUICK, seed)
    assert [f"{case}: {fault}" for case in cases if (fault := hostile.fault(case))] == []


@pytest.mark.slow
def test_every_sixth_hostile_value():
    cases = list(hostile.all_cases())[::6]
    assert [f"{case}: {fault}" for case in cases if (fault := hostile.fault(case))] == []


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_every_hostile_value_of_every_key():
    count = int(os.environ.get("PODRL_FUZZ", "100000"))
    cases = list(hostile.all_cases())[:count]
    assert [f"{case}: {fault}" for case in cases if (fault := hostile.fault(case))] == []


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"actors__max_lag": 10**30}, f"actors.max_lag={10**30} must lie in [0, 1024]."),
        ({"total_env_steps": 10**18}, "total_env_steps=1000000000000000000 must lie in [0, 1e15]."),
        ({"total_env_steps": 10**5000}, "total_env_steps=a whole number of some 5,000 digits must lie in [0, 1e15]."),
        ({"watchdog_s": 1e30}, "watchdog_s=1e+30 must lie in [0.001, 1e6]."),
        ({"watchdog_s": 10**400}, "watchdog_s=a whole number of some 400 digits is too large a number."),
        ({"actors__timeout_s": float("inf")}, "actors.timeout_s=inf must lie in [0.001, 1e6]."),
        (
            {"agent__optimizer__learning_rate": float("nan")},
            "agent.optimizer.learning_rate=nan must lie in [1e-12, 10].",
        ),
        (
            {"agent__entropy_cost": 1e-320},
            "agent.entropy_cost=1e-320 must lie in [0, 1e6], and be 0 or at least 1e-20.",
        ),
        ({"agent__optimizer__rmsprop_decay": 1.0}, "agent.optimizer.rmsprop_decay=1.0 must lie in [0, 1)."),
        ({"network__hidden_sizes": (8, 0)}, "network.hidden_sizes[1]=0 must lie in [1, 2**31]."),
        ({"network__hidden_sizes": (8,) * 101}, "network.hidden_sizes: has 101 items; expected a list of at most 100."),
        ({"seed": 2**31}, "seed=2147483648 must lie in [0, 2**31)."),
        ({"name": "runs/*"}, r"name='runs/*' must be text of 1 to 100 printable characters, none of / \ * ? [ ]."),
        ({"agent": 3}, "agent.name=None must be the name of an agent, such as 'impala'."),
        ({"env": {1: 2}}, "Unknown config key 'env.1'."),
        ({"env": {"idd": 2}}, "Unknown config key 'env.idd'; did you mean 'env.id'?"),
        ({"log": "x" * 10_000}, f"log='{'x' * 39} ... {'x' * 19}' must be a section with keys of its own."),
    ],
)
def test_what_is_out_of_range_is_answered_with_the_range(values, complaint):
    assert complaint_about(**values) == complaint


def test_a_value_that_a_config_file_requires_is_named():
    config = hostile.base("impala")
    config.actors.num_envs = ml_collections.config_dict.required_placeholder(int)
    with pytest.raises(ConfigError, match=r"Config key actors.num_envs has no value"):
        resolve(config)


@pytest.mark.parametrize(
    ("agent", "other", "key"), [("impala", "ppo", "clip_rho"), ("ppo", "impala", "normalize_advantages")]
)
def test_another_agent_on_a_config_is_told_where_to_start(agent, other, key):
    config = hostile.base(agent)
    config.agent.name = other
    with pytest.raises(ConfigError) as error:
        resolve(config)
    said = str(error.value)
    assert said.startswith(f"agent.name={other!r} does not go with this config: its agent.")
    assert f"is a key of {agent!r}. Start from a config of its own, such as {other}_catch," in said
    own = hostile.base(other).agent
    own[key] = 1
    with pytest.raises(ConfigError, match=rf"its agent\.{key} is a key of '{agent}'"):
        resolve(ml_collections.ConfigDict({**hostile.base(other), "agent": own}))


def test_a_run_longer_than_can_be_counted_names_the_longest():
    said = complaint_about(total_env_steps=10**12)
    assert said == (
        "total_env_steps=1000000000000 ends at update 31,250,000,000, and updates are counted up to 2**31 - 1. Use at "
        "most 68,719,476,704, or larger updates: raise actors.num_envs or actors.unroll_length."
    )
    config = hostile.base("impala")
    config.total_env_steps = 68_719_476_704
    assert resolve(config).num_updates == 2**31 - 1


def test_every_key_has_values_in_the_table():
    """But for switches and `env.options`, which are the environment's own."""
    hints = Config.__annotations__
    sections = [Config, *(hints[name] for name in (*default_sections(), "env"))]
    for section in (
        *sections,
        *(OptimizerConfig, PopArtConfig, AugmentConfig, AuxiliaryConfig),
        *(load_agent(name).AgentConfig for name in agent_names()),
    ):
        for field in dataclasses.fields(section):
            key = f"{section.__name__}.{field.name}"
            is_section = dataclasses.is_dataclass(field.type) or (section is Config and field.name == "agent")
            free = field.type is bool or is_section or key == "EnvConfig.options"
            assert (values_of(field) is None) == free, key


def test_the_documented_table_is_current():
    page = ROOT / "docs/config.md"
    assert page.read_text() == reference(), "python docs/make_config_reference.py > docs/config.md"
