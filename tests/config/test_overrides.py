"""Options of environments on the command line, as they reach a constructor."""

from pathlib import Path
import re

import ml_collections
import pytest

from configs import common
from podrl.assembly import resolve
from podrl.config.commandline import load_config
from podrl.config.config import ConfigError, EnvConfig
from podrl.config.overrides import OF_A_FAMILY, list_values, override
from podrl.envs.loading import load_environment
from tests.envs.corridor import Corridor

ATARI = "configs/impala_atari.py"
HERE = "tests.config.test_overrides"


class Typed(Corridor):
    """Takes values of every kind; `shared` is changed by each instance."""

    def __init__(
        self,
        hard: bool = True,
        size=3,
        weather=None,
        name: str = "x",
        sizes: tuple = (1,),
        kinds=["a"],  # noqa: B006 (as users write)
        shared=None,
        level: "int | None" = 2,
        gravity=10.0,
    ):
        super().__init__()
        self.given = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        if shared:
            shared["lanes"] = shared.pop("lanes") + 1


def options_of(*arguments, file="configs/impala_catch.py", base=None, source="gymnasium", env_id=f"{HERE}:Typed"):
    """The options that the environment is given."""
    config = load_config(file)
    if base is not None:
        config.env.update({"source": source, "id": env_id, "options": base})
    else:
        arguments = (f"--config.env.source={source}", f"--config.env.id={env_id}", *arguments)
    return load_environment(resolve(override(config, arguments)))[0].env.options


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("hard=false", False),
        ("hard=1", True),
        ("size=2.5", 2.5),
        ("size=None", None),
        ("weather=false", False),
        ("weather={wind: [1, 2]}", {"wind": [1, 2]}),
        ("name=false", "false"),
        ("name=None", None),
        ("sizes=4,5", (4, 5)),
        ("kinds=(b, c)", ["b", "c"]),
        ("shared={'lanes': 3}", {"lanes": 3}),
        ("shared.lanes=3", {"lanes": 3}),
        ("level=1e2", 100),
        ("gravity=2", 2.0),
        ("size=1.0", 1.0),
        ("name=null", None),
    ],
)
def test_a_value_has_the_type_of_the_constructors_argument(text, value):
    name = text.partition("=")[0].partition(".")[0]
    found = options_of(f"--config.env.options.{text}")[name]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("hard=flase", "env.options.hard='flase' is neither true nor false."),
        ("weather=none", "env.options.weather='none' may be None or the text"),
        ("weather=[1", "env.options.weather='[1' cannot be read"),
        ("size=big", "env.options.size='big' is not a number."),
        ("={a", "env.options='{a' cannot be read"),
        ("={a.b: 3}", "env.options={'a.b': '3'} has a name with a dot"),
        ("shared.lanes={a.b: 3}", "env.options.shared.lanes={'a.b': 3} has a name with a dot"),
        ("name='\\x'", "env.options.name=.* a backslash in it is written twice"),
        (f"weather={'[' * 3000}", "env.options.weather=.* is nested too deeply"),
        ("gravity=inf", "env.options.gravity='inf' is not a finite number"),
        ("weather=[1, inf]", "env.options.weather cannot be recorded: .* finite numbers"),
        ("=3", "env.options='3' is not a dictionary"),
        ("hart=true", "env.options.hart is not an option of .*; did you mean 'hard'"),
    ],
)
def test_a_value_that_cannot_be_read_is_one_line(text, complaint):
    key = "--config.env.options" + ("" if text.startswith("=") else ".")
    with pytest.raises(ConfigError, match=re.sub(r"([\[{])", r"\\\1", complaint)) as caught:
        options_of(key + text)
    assert "\n" not in str(caught.value)


def test_sources_type_their_own_options():
    lake = options_of(
        "--config.env.options.is_slippery=false", "--config.env.options.map_name=None", env_id="FrozenLake-v1"
    )
    assert lake == {"is_slippery": False, "map_name": None}
    pong = ("--config.env.options.full_action_space=false", "--config.env.options.noop_max=5")
    assert options_of(*pong, source="envpool", env_id="Pong-v5") == {"full_action_space": False, "noop_max": 5}
    chain = options_of("--config.env.options.memory_length=4", source="gymnax", env_id="MemoryChain-bsuite")
    assert chain == {"memory_length": 4}
    scripted = options_of("--config.env.options.truncate=true", source="tests.envs.scripted", env_id="script")
    assert scripted == {"truncate": True}


def test_what_a_file_sets_to_nothing_or_to_a_dictionary_can_be_overridden():
    base = {"weather": None, "shared": {"lanes": 3, "wide": False}}
    assert options_of("--config.env.options.weather=rain", base=base) == base | {"weather": "rain"}
    wide = options_of("--config.env.options.shared.wide=true", "--config.env.options.shared.new=a", base=base)
    assert wide["shared"] == {"lanes": 3, "wide": True, "new": "a"}
    assert options_of("--config.env.options.shared={lanes: 1}", base=base)["shared"] == {"lanes": 1}
    assert options_of("--config.env.options.shared=None", base=base)["shared"] is None
    assert options_of("--config.env.options={}", "--config.env.options.size=4", base=base) == {"size": 4}
    assert options_of("--config.env.options={name: none, hard: false}", base=base) == {"name": "none", "hard": False}


def test_an_agents_key_that_a_file_sets_to_nothing_can_be_overridden():
    config = load_config(ATARI)
    with config.ignore_type():
        config.agent.max_reward = None
    assert resolve(override(config, ["--config.agent.max_reward=2.5"])).agent.max_reward == 2.5


def test_the_files_own_config_is_left_as_it_is():
    config = load_config(ATARI)
    before = config.to_json()
    override(config, ["--config.env.id=Pong-v5", "--config.agent.discount=0.9", "--config.env.options.noop_max=3"])
    assert config.to_json() == before


def test_values_that_follow_from_others_still_do():
    config = load_config(ATARI)
    config.topology.micro_batches = config.get_ref("seed") * 2
    config.actors.num_envs = config.agent.get_ref("minibatches") * 8
    found = override(config, ["--config.seed=21", "--config.agent.minibatches=4"])
    assert (found.topology.micro_batches, found.actors.num_envs) == (42, 32)


def test_a_key_that_a_file_leaves_out_can_be_set():
    config = load_config(ATARI)
    del config.env["workers"], config["evaluate"]
    found = override(config, ["--config.env.workers=2", "--config.evaluate.greedy=true"])
    assert (found.env.workers, found.evaluate.greedy) == (2, True)


def test_options_are_each_environments_own_and_recorded_as_they_were_asked_for():
    config = load_config("configs/impala_catch.py")
    config.env.update({"source": "gymnasium", "id": f"{HERE}:Typed", "options": {"shared": {"lanes": 3}}})
    config, source, _ = load_environment(resolve(config))
    pool = source.make_pool(config.env, seeds=[1, 2, 3], num_threads=1)
    lanes = [env.given["shared"]["lanes"] for env in pool._batch._envs]
    pool.close()

    assert lanes == [4, 4, 4]  # Each has counted up once from 3.
    assert config.env.options == {"shared": {"lanes": 3}}


@pytest.mark.parametrize("value", [{1: "a"}, {3, 4}, object(), [b"x"], float("nan"), {"a": float("-inf")}])
def test_an_option_that_cannot_be_recorded_is_refused(value):
    config = load_config("configs/impala_catch.py")
    config.env.options["shared"] = [value]
    with pytest.raises(ConfigError, match=r"env\.options\.shared cannot be recorded"):
        resolve(config)


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (("--config.env.id=Pong-v5",), True),
        (("--config.env.source=ale", "--config.env.id=Pong-v5"), True),
        (("--config.env.id=CartPole-v1",), False),
        (("--config.env.source=gymnasium", f"--config.env.id={HERE}:Typed", "--config.env.options.size=4"), False),
        (("--config.env.source=gymnasium", f"--config.env.id={HERE}:anything", "--config.env.options.size=4"), False),
    ],
)
def test_another_family_of_environments_drops_the_files_options_with_a_line(caplog, arguments, kept):
    if "--config.env.source=ale" in arguments:
        pytest.importorskip("ale_py")
    config = load_config(ATARI)
    caplog.set_level("INFO")
    found = load_environment(resolve(override(config, arguments)))[0].env.options

    own = {"size": 4} if "--config.env.options.size=4" in arguments else {}
    assert found == (config.env.options.to_dict() if kept else own)
    told = [
        record.getMessage() for record in caplog.records if "left out what the config file has" in record.getMessage()
    ]
    assert len(told) == (0 if kept else 1)
    assert all("has for Breakout-v5: " in line and "env.options.frame_skip" in line for line in told)


@pytest.mark.parametrize("file", sorted(path.stem for path in Path("configs").glob("[a-z]*_*.py")))
def test_every_config_file_takes_an_environment_of_another_family(file, caplog):
    config = load_config(f"configs/{file}.py")
    caplog.set_level("INFO")
    arguments = ("--config.env.source=gymnasium", f"--config.env.id={HERE}:Typed", "--config.env.channels=last")
    found = load_environment(resolve(override(config, arguments)))[0].env

    assert found == EnvConfig(source="gymnasium", id=f"{HERE}:Typed", channels="last")
    assert type(found.id) is str
    told = " ".join(record.getMessage() for record in caplog.records)
    own = {name: value for name, value in config.env.items() if name in OF_A_FAMILY and value != getattr(found, name)}
    assert all(f"env.{name}" in told for name in own if name != "channels")


FILE = {"observation_keys": ("image",), "uint8": "numbers", "max_episode_steps": 9}


@pytest.mark.parametrize(
    ("env_id", "arguments", "kept"),
    [
        ("Pong-v5", (), ()),
        ("Pong-v5", ("--config.env.uint8=numbers",), ("uint8",)),
        ("MiniGrid-Empty-5x5-v0", (), tuple(FILE)),
        ("MiniGrid-DoorKey-5x5-v0", (), tuple(FILE)),
    ],
)
def test_what_suits_a_family_is_not_inherited_by_another(env_id, arguments, kept, caplog):
    config = load_config("configs/impala_minigrid.py")
    config.env.update(FILE)
    caplog.set_level("INFO")
    found = load_environment(resolve(override(config, (f"--config.env.id={env_id}", *arguments))))[0].env

    assert {name: getattr(found, name) for name in FILE if name in kept} == {name: FILE[name] for name in kept}
    default = EnvConfig(id="x")
    assert all(getattr(found, name) == getattr(default, name) for name in FILE if name not in kept)
    told = " ".join(record.getMessage() for record in caplog.records)
    assert all((f"env.{name}" in told) == (name not in kept) for name in FILE)


def test_several_texts_without_brackets_are_told_to_have_some():
    config = load_config("configs/impala_minigrid.py")
    with pytest.raises(ConfigError, match=r"no entry 'image,direction'.* in brackets: \(image,direction\)\."):
        load_environment(resolve(override(config, ["--config.env.observation_keys=image,direction"])))
    assert override(config, ["--config.env.wrappers="]).env.wrappers == ()


def test_a_value_that_a_config_file_requires_can_be_given():
    required = ml_collections.config_dict.required_placeholder
    config = load_config(ATARI)
    with config.ignore_type():
        config.env.id = required(str)
        config.actors.num_envs = required(int)
        config.agent.optimizer.learning_rate = required(float)
        config.agent.optimizer.epsilon = required(float)
        config.env.options.noop_max = required(int)
    listed = list_values(config)
    assert listed["actors.num_envs"] == listed["agent.optimizer.learning_rate"] == "(required)"
    arguments = (
        "env.id=Pong-v5",
        "actors.num_envs=32",
        "agent.optimizer.learning_rate=1",
        "agent.optimizer.epsilon=1e-3",
        "env.options.noop_max=7",
    )
    found = override(config, [f"--config.{argument}" for argument in arguments])
    assert (found.env.id, found.actors.num_envs, found.agent.optimizer.epsilon) == ("Pong-v5", 32, 0.001)
    assert resolve(found).agent.optimizer.learning_rate == 1.0
    assert load_environment(resolve(found))[0].env.options == {**common.atari_options(), "noop_max": 7}
    for key in ("agent.optimizer.learning_rate", "env.options.noop_max"):
        given = [f"--config.{argument}" for argument in arguments if not argument.startswith(key)]
        with pytest.raises(ConfigError, match=rf"Config key {key} has no value"):
            resolve(override(config, given))


def test_an_agents_key_that_a_file_writes_as_a_whole_number_takes_decimals():
    config = load_config(ATARI)
    with config.ignore_type():
        config.agent.optimizer.max_grad_norm = 40
    for text, value in (("0.5", 0.5), ("1e2", 100.0)):
        assert (
            resolve(override(config, [f"--config.agent.optimizer.max_grad_norm={text}"])).agent.optimizer.max_grad_norm
            == value
        )
    assert resolve(override(config, ["--config.agent.minibatches=1e0"])).agent.minibatches == 1
    with pytest.raises(ConfigError, match=r"agent\.minibatches=1\.5 has type float; expected int"):
        resolve(override(config, ["--config.agent.minibatches=1.5"]))


def anything(**options):
    return Typed(**options)
