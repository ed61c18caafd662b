"""The number of an environment, in its options and wrappers: which one it is, and where it is asked for in vain."""

import collections
import json

import numpy as np
import pytest

from configs import common
from podrl import train
from podrl.assembly import resolve
from podrl.commands import evaluate
from podrl.config.commandline import load_config, override
from podrl.config.config import ConfigError, EnvConfig
from podrl.config.env_numbers import with_number
from podrl.config.reading import read_key
from podrl.envs.loading import load_environment
from podrl.envs.sources import gymnasium
from podrl.evaluation.episodes import MAX_ENVS
from tests import short_runs
from tests.envs.numbered import read_opened

OWN, TOLD = "tests.envs.numbered:Numbered", "tests.envs.numbered:Told"


def own(folder, **changes):
    options = {"folder": str(folder), "port": "{env_number}"} | changes.pop("options", {})
    return EnvConfig(source="gymnasium", id=OWN, options=options, **changes)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{env_number}", 7),
        (" { env_number + 5000 } ", 5007),
        ("{env_number+5000}", 5007),
        ("env {env_number}", "env 7"),
        ("{env_number}:{env_number+1}", "7:8"),
        ("{number}", "{number}"),
        (["{env_number}", 3], [7, 3]),
        ({"a": {"b": "/tmp/{env_number}"}}, {"a": {"b": "/tmp/7"}}),
    ],
)
def test_a_text_becomes_the_number_or_contains_it(text, value):
    assert with_number(EnvConfig(id="x", options={"one": text}), 7).options == {"one": value}


@pytest.mark.parametrize(
    ("written", "filled"),
    [
        ("m:W(a={env_number})", "m:W(a=7)"),
        ("m:W(a='{env_number}', b={env_number+10})", "m:W(a=7, b=17)"),
        ('m:W(a="env {env_number}")', 'm:W(a="env 7")'),
        ("m:W(a=1)", "m:W(a=1)"),
    ],
)
def test_so_does_an_argument_of_a_wrapper(written, filled):
    found = with_number(EnvConfig(id="x", wrappers=(written,), training_wrappers=(written, "m:V")), 7)
    assert (found.wrappers, found.training_wrappers) == ((filled,), (filled, "m:V"))


def test_a_config_without_numbers_stays_itself():
    config = EnvConfig(id="x", options={"one": "{a}"}, wrappers=("m:W(a={1})",))
    assert with_number(config, 7) is config


@pytest.mark.parametrize("text", ["{env_number-1}", "{env_number", "a{env_number*2}", "{env_number}{env_numbers}"])
def test_other_sums_are_refused(text):
    config = EnvConfig(id="x", options={"one": text})
    with pytest.raises(ConfigError, match=r"^env\.options\.one: .* number is \{env_number\}, or \{env_number\+5000"):
        with_number(config, 7)


@pytest.mark.parametrize("places", [{"wrappers": 0}, {"training_wrappers": 1}, {"options": 0}])
def test_each_of_several_is_checked(places):
    ((place, wrong),) = places.items()
    texts = ["m:A(port={env_number})", "m:B(port={env_number})"]
    texts[wrong] = "m:C(port={env_number-1})"
    value = {"ports": texts} if place == "options" else tuple(texts)
    with pytest.raises(ConfigError, match=rf"^env\.{place}.*: 'm:C\(port=\{{env_number-1\}}\)' cannot be read"):
        with_number(EnvConfig(id="x", **{place: value}), 7)


class TestCommandLine:
    @pytest.mark.parametrize("typed", ["{env_number+1}", "'{env_number+1}'", " {env_number+1}"])
    def test_an_option_is_it_whatever_its_type(self, typed, tmp_path):
        config = load_config("configs/impala_catch.py")
        common_options = {"folder": str(tmp_path), "port": 80}
        config.env.update({"source": "gymnasium", "id": OWN, "options": common_options})
        found = override(config, [f"--config.env.options.port={typed}", "--config.env.options.name=a{env_number}"])
        env = load_environment(resolve(found))[0].env
        assert env.options == common_options | {"port": "{env_number+1}", "name": "a{env_number}"}
        assert read_opened(tmp_path) == [["1", "a0"]]

    def test_so_are_entries_of_dictionaries_and_lists(self):
        config = common.make_config("test", "x", total_env_steps=1)
        config.env.options = {"inner": {"port": 80, "kind": "a"}}
        found = override(config, ["--config.env.options.inner.port={env_number}"])
        assert found.env.options.inner.port == "{env_number}"
        assert read_key("key", "['{env_number}', 3]", list) == ["{env_number}", 3]

    @pytest.mark.parametrize("workers", [0, 2])
    def test_wrappers(self, workers, tmp_path):
        text = f"('{TOLD}(number={{env_number+5000}}, name=\"env {{env_number}}\")',)"
        config = override(load_config("configs/impala_catch.py"), [f"--config.env.wrappers={text}"])
        wrapped = own(tmp_path, wrappers=config.env.wrappers, workers=workers)
        pool = gymnasium.make_pool(wrapped, seeds=[1, 2], num_threads=1, env_numbers=[3, 8])
        pool.record_info(["wrapper", "name", "number"])
        pool.reset()
        for _ in range(3):
            pool.send(np.zeros(2, np.int32))
            pool.recv()
        assert pool.ended_numbers == {
            row: {"name": number, "number": number, "wrapper": 5000 + number} for row, number in enumerate((3, 8))
        }
        pool.close()


@pytest.mark.parametrize("source", ["envpool", "ale", "gymnax", "brax", "octax", "football", "tests.envs.scripted"])
def test_other_sources_give_none(source):
    pytest.importorskip({"ale": "ale_py", "brax": "brax", "octax": "octax"}.get(source, "numpy"))
    config = short_runs.make_config("CartPole-v1", env__source=source, env__options={"port": "{env_number}"})
    with pytest.raises(ConfigError, match=rf"^env\.options\.port: .* env\.source='{source}' gives none; env\.source=g"):
        load_environment(config)


def make_config(folder, **changes):
    """Eight environments in two pools of each of two actor threads."""
    options = {"folder": str(folder), "port": "{env_number}", "name": "n{env_number+100}"}
    settings = {
        "env__source": "gymnasium",
        "env__options": options,
        "actors__threads_per_device": 2,
        "topology__actor_devices_per_process": 1,
        "topology__learner_devices_per_process": 1,
        "log__tensorboard": False,
    }
    return short_runs.make_config(OWN, **settings | changes)


def count_opened(folder):
    assert all(note.split()[0] == f"n{int(number) + 100}" for number, note in read_opened(folder))
    return collections.Counter(int(number) for number, _ in read_opened(folder))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_and_its_evaluations_have_no_two_of_a_number(tmp_path, workers):
    """The environment fails where its number is taken. A boundary opens all anew, and so does a resume."""
    changes = {"checkpoint__every_updates": 5, "evaluate__every_updates": 10, "evaluate__episodes": 5}
    config = make_config(tmp_path, env__workers=workers, **changes)
    trials = {0: 3, 8: 2}  # Of the environment and of evaluations, before anything starts.
    train.train(config, workdir=str(tmp_path / "run"))
    expected = dict.fromkeys(range(8), 2) | dict.fromkeys(range(8, 13), 1)
    assert count_opened(tmp_path) == collections.Counter(expected) + collections.Counter(trials)
    longer = make_config(tmp_path, env__workers=workers, **changes, total_env_steps=12 * 8 * 4)
    train.train(longer, workdir=str(tmp_path / "run"), accept_changes=True)
    assert set(count_opened(tmp_path)) == set(range(13))
    assert count_opened(tmp_path)[7] == 3


def test_tools_that_play_beside_a_run_have_others(tmp_path):
    folder = tmp_path / "run"
    train.train(make_config(tmp_path, total_env_steps=32), workdir=str(folder))
    (tmp_path / "opened").unlink()
    video = ("--video", str(tmp_path / "film.gif"), "--video_seconds", "0.1", "--policy", "greedy")
    assert evaluate.main(["evaluate.py", "--workdir", str(folder), "--episodes", "3", *video]) == 0
    drawn = [int(number) for number, note in read_opened(tmp_path) if note.endswith("filmed")]
    first = 8 + MAX_ENVS
    assert drawn == [first, first + 1, first + 2]
    assert min(count_opened(tmp_path)) == first
    assert json.loads((folder / "config.json").read_text())["env"]["options"]["port"] == "{env_number}"
