"""podrl's own settings of an environment: the same for every source, and apart from the constructor's arguments."""

import dataclasses
import json

import gymnasium
import numpy as np
import pytest

from podrl.config.config import ENV_SETTINGS, ConfigError, EnvConfig
from podrl.config.config_dict import differences, to_dict, with_defaults
from podrl.envs.loading import load_environment
from podrl.envs.settings import check_settings
from podrl.envs.source import load_source
from tests import short_runs

CASES = {
    "envpool": ("CartPole-v1", ("max_episode_steps",)),
    "football": ("gfootball/academy_empty_goal_close-v1", ("max_episode_steps",)),
    "gymnax": ("CartPole-v1", ("max_episode_steps",)),
    "brax": ("inverted_pendulum", ("max_episode_steps",)),
    "gymnasium": ("CartPole-v1", ENV_SETTINGS),
    "ale": ("Pong-v5", ("max_episode_steps",)),
    "octax": ("brix", ("max_episode_steps",)),
    "tests.envs.scripted": ("script", ()),
}
VALUES = {
    "max_episode_steps": 7,
    "workers": 1,
    "worker_timeout_s": 9.0,
    "wrappers": ("gymnasium.wrappers:RecordEpisodeStatistics",),
    "training_wrappers": ("gymnasium.wrappers:RecordEpisodeStatistics",),
}


def source_of(name):
    package = {"ale": "ale_py", "brax": "brax", "octax": "octax"}.get(name)
    if package:
        pytest.importorskip(package)
    return load_source(name)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("setting", ENV_SETTINGS)
def test_a_source_keeps_a_setting_or_refuses_it(name, setting):
    source, (env_id, kept) = source_of(name), CASES[name]
    config = dataclasses.replace(EnvConfig(source=name, id=env_id), **{setting: VALUES[setting]})
    if setting in kept:
        check_settings(source, config)
        source.make_spec(config)
        return
    with pytest.raises(ConfigError, match=rf"^env\.{setting}=.* has no effect with env\.source='{name}': ") as caught:
        check_settings(source, config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("tests")])
@pytest.mark.parametrize("setting", ENV_SETTINGS)
def test_a_setting_among_the_options_is_answered_with_its_own_key(name, setting):
    source, config = source_of(name), EnvConfig(source=name, id=CASES[name][0], options={setting: VALUES[setting]})
    with pytest.raises(ConfigError, match=rf"env\.options\.{setting} is .* env\.{setting}\."):
        source.make_spec(config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_episode_steps": -1}, r"env.max_episode_steps=-1 must lie in \[0, 2\*\*31\)"),
        ({"workers": -1}, r"env.workers=-1 must lie in \[0, 4096\]"),
        ({"worker_timeout_s": 0.0}, r"env.worker_timeout_s=0.0 must lie in \[0.001, 1e6\]"),
        ({"wrappers": ("B",)}, "env.wrappers: 'B' must be 'module:Name'"),
    ],
)
def test_settings_have_ranges(values, message):
    with pytest.raises(ConfigError, match=message):
        EnvConfig(id="x", **values)


@pytest.mark.parametrize(
    ("source", "before", "now"),
    [
        ("gymnasium", {"workers": 2, "worker_timeout_s": 5.0, "length": 3}, {"workers": 2, "worker_timeout_s": 5.0}),
        ("gymnasium", {"wrappers": ["a:B"], "length": 3}, {"wrappers": ("a:B",)}),
        ("envpool", {"max_episode_steps": 9, "length": 3}, {"max_episode_steps": 9}),
        ("my_package.my_source", {"max_episode_steps": 9, "workers": 2, "length": 3}, {}),
        ("gymnax", {"max_steps_in_episode": 9, "length": 3}, {"max_episode_steps": 9}),
    ],
)
def test_a_run_that_was_recorded_with_settings_among_its_options_goes_on(source, before, now):
    own = before if "." in source else {"length": 3}  # Of a user's own source all are.
    config = short_runs.make_config("x", env__source=source, env__options=own)
    config = dataclasses.replace(config, env=dataclasses.replace(config.env, **now))
    recorded = json.loads(json.dumps(to_dict(config)))
    recorded["env"] = {"source": source, "id": "x", "observation_keys": [], "options": before}

    assert differences(with_defaults(recorded), to_dict(config)) == {}


def test_what_is_recorded_now_is_read_as_it_is():
    options = {"max_episode_steps": 100, "workers": 3}  # A constructor's.
    config = short_runs.make_config("x", env__source="gymnasium", env__options=options, env__workers=1)

    assert differences(with_defaults(json.loads(json.dumps(to_dict(config)))), to_dict(config)) == {}


SHAPED = "tests.envs.corridor:ShapedReward"


def test_wrappers_for_training_are_left_out_of_evaluations_and_films():
    module = load_source("gymnasium")
    config = EnvConfig(source="gymnasium", id="CartPole-v1", training_wrappers=(SHAPED,))
    protocol = module.evaluation_protocol(config)

    def first_reward(config, make="make_pool"):
        pool = getattr(module, make)(config, seeds=[1], num_threads=1)
        pool.reset()
        pool.send(np.zeros(1, np.int32))
        reward = pool.recv().reward[0]
        pool.close()
        return reward

    own = first_reward(EnvConfig(source="gymnasium", id="CartPole-v1"))
    assert first_reward(config) == own + 10
    assert first_reward(protocol.env) == first_reward(protocol.env, "make_picture_pool") == own
    assert "wrappers" not in protocol.facts


def test_a_wrapper_that_stays_in_evaluation_is_named_in_its_report():
    config = EnvConfig(source="gymnasium", id="CartPole-v1", wrappers=(SHAPED,))
    protocol = load_source("gymnasium").evaluation_protocol(config)

    assert protocol.facts["wrappers"] == SHAPED
    assert protocol.env.wrappers == (SHAPED,)


@pytest.mark.parametrize("name", ["wrappers", "training_wrappers"])
def test_a_wrapper_that_is_not_there_is_named_with_its_key(name):
    config = EnvConfig(source="gymnasium", id="CartPole-v1", **{name: ("tests.envs.corridor:Shapeless",)})
    with pytest.raises(ConfigError, match=rf"^env\.{name}: 'tests.envs.corridor:Shapeless' is nothing that can be"):
        load_source("gymnasium").make_spec(config)


@pytest.mark.parametrize(
    ("wrapper", "what"),
    [("gymnasium.wrappers:TimeAwareObservation", "observation"), ("tests.envs.test_settings:FewerActions", "actions")],
)
def test_a_wrapper_for_training_that_changes_what_an_agent_sees_or_does_is_refused(wrapper, what):
    config = short_runs.make_config("CartPole-v1", env__source="gymnasium", env__training_wrappers=(wrapper,))
    with pytest.raises(ConfigError, match=rf"^env\.training_wrappers=.* change the {what} of env\.id='CartPole-v1'"):
        load_environment(config)
    env = dataclasses.replace(config.env, training_wrappers=(SHAPED,))
    load_environment(dataclasses.replace(config, env=env))


class FewerActions(gymnasium.ActionWrapper):
    def __init__(self, env):
        super().__init__(env)
        self.action_space = gymnasium.spaces.Discrete(1)

    def action(self, action):
        return action
