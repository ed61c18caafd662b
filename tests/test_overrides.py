"""Options of environments on the command line, as they reach a constructor."""

import pytest

from podrl.assembly import load_environment, resolve
from podrl.commandline import load_config
from podrl.config import ConfigError
from podrl.overrides import override
from tests.envs.corridor import Corridor

ATARI = "configs/impala_atari.py"
HERE = "tests.test_overrides"


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
        ("=3", "env.options='3' is not a dictionary"),
        ("hart=true", "env.options.hart is not an option of .*; did you mean 'hard'"),
    ],
)
def test_a_value_that_cannot_be_read_is_one_line(text, complaint):
    key = "--config.env.options" + ("" if text.startswith("=") else ".")
    with pytest.raises(ConfigError, match=complaint.replace("[", r"\[")) as caught:
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
    assert override(config, ["--config.agent.max_reward=2.5"]).agent.max_reward == 2.5


def test_the_files_own_config_is_left_as_it_is():
    config = load_config(ATARI)
    before = config.to_json()
    override(config, ["--config.env.id=Pong-v5", "--config.agent.discount=0.9", "--config.env.options.noop_max=3"])
    assert config.to_json() == before


def test_values_that_follow_from_others_still_do():
    config = load_config(ATARI)
    config.agent.micro_batches = config.get_ref("seed") * 2
    assert override(config, ["--config.seed=21"]).agent.micro_batches == 42


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


@pytest.mark.parametrize("value", [{1: "a"}, {3, 4}, object(), [b"x"]])
def test_an_option_that_cannot_be_recorded_is_refused(value):
    config = load_config("configs/impala_catch.py")
    config.env.options["shared"] = [value]
    with pytest.raises(ConfigError, match=r"env\.options\.shared is not to be recorded"):
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
    told = [record.getMessage() for record in caplog.records if "left out the options" in record.getMessage()]
    assert len(told) == (0 if kept else 1)
    assert all("that the config file has for Breakout-v5: " in line and "frame_skip" in line for line in told)


def anything(**options):
    return Typed(**options)
