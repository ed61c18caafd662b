"""Time limits of evaluations, and evaluations that could not end."""

import importlib
import types

import gymnasium
import numpy as np
import pytest

from podrl.config.config import ConfigError, EnvConfig
from podrl.envs.loading import load_environment
from podrl.envs.source import EvaluationProtocol, Source, evaluation_protocol, load_source
from podrl.evaluation import endless
from podrl.saved_run import limited_protocol
from podrl.train import train
from tests import short_runs

evaluate = importlib.import_module("podrl.commands.evaluate")
ENDLESS = "tests.evaluation.test_endless:Endless"


class Endless(gymnasium.Env):
    """Never ends by itself, or after `ends_after` steps."""

    def __init__(self, ends_after: int = 0):
        self.observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)
        self._ends_after = ends_after

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps = 0
        return np.ones(1, np.float32), {}

    def step(self, action):
        self._steps += 1
        return np.ones(1, np.float32), 1.0, self._steps == self._ends_after, False, {}


def endless_config(**overrides):
    return short_runs.make_config(
        ENDLESS, env__source="gymnasium", actors__num_envs=32, total_env_steps=256, **overrides
    )


def parts(config):
    config, source, spec = load_environment(config)
    return source, spec, evaluation_protocol(source, config.env)


@pytest.mark.parametrize(
    ("source", "env_id", "own"),
    [
        ("envpool", "CartPole-v1", 500),
        ("envpool", "Pong-v5", 27_000),
        ("football", "gfootball/academy_empty_goal_close-v1", 400),
        ("gymnax", "CartPole-v1", 500),
        ("gymnasium", "CartPole-v1", 500),
        ("ale", "Pong-v5", 27_000),
    ],
)
def test_an_evaluation_has_the_environments_own_limit_whatever_training_has(source, env_id, own):
    if source == "ale":
        pytest.importorskip("ale_py")
    for limit in (0, 7):
        config = short_runs.make_config(env_id, env__source=source, env__max_episode_steps=limit)
        _, _, protocol = parts(config)
        assert (protocol.max_episode_steps, protocol.env.max_episode_steps) == (own, 0)


def test_where_there_is_no_other_the_limit_of_training_stays():
    _, _, protocol = parts(endless_config(env__max_episode_steps=7))
    assert (protocol.max_episode_steps, protocol.env.max_episode_steps) == (7, 7)
    assert protocol.facts == {"max_episode_steps": 7}
    _, _, protocol = parts(endless_config())
    assert (protocol.max_episode_steps, protocol.facts) == (None, {"max_episode_steps": "none"})


def test_training_with_evaluations_that_cannot_end_is_refused_before_it_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(endless, "MAX_STEPS", 2000)
    with pytest.raises(ConfigError, match=r"Endless might never end: .*Set env\.max_episode_steps"):
        train(endless_config(evaluate__every_updates=1), workdir=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_an_episode_that_ends_by_itself_needs_no_limit(monkeypatch):
    monkeypatch.setattr(endless, "MAX_STEPS", 21)
    for steps, is_refused in ((20, False), (21, True)):
        source, spec, protocol = parts(endless_config(env__options={"ends_after": steps}))
        arguments = {"seed": 1, "remedy": "Do."}
        if is_refused:
            with pytest.raises(ConfigError, match=r"no episode ended in 21 steps \(0 s\) of random play\. Do\."):
                endless.check_ends(source, spec, protocol, **arguments)
        else:
            endless.check_ends(source, spec, protocol, **arguments)


def test_a_run_without_a_limit_is_evaluated_with_one_or_not_at_all(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(endless, "MAX_STEPS", 2000)
    assert train(endless_config(), workdir=str(tmp_path / "run")).finished
    command = ["evaluate", "--workdir", str(tmp_path / "run"), "--episodes=2", "--policy=sampled"]
    assert evaluate.main(command) == 2
    assert "Add --max_episode_steps=N" in capsys.readouterr().err
    assert evaluate.main([*command, "--max_episode_steps=6"]) == 0
    assert "max_episode_steps=6" in capsys.readouterr().out


def test_a_limit_that_would_be_ignored_is_refused():
    config, source, spec = load_environment(short_runs.make_config("CartPole-v1", env__source="gymnasium"))
    saved = types.SimpleNamespace(config=config, source=source, spec=spec)
    for steps, is_refused in ((0, False), (500, False), (7, True)):
        if is_refused:
            with pytest.raises(ConfigError, match=r"^--max_episode_steps=7 has no effect: CartPole-v1 .* of 500 steps"):
                limited_protocol(saved, steps, 0)
        else:
            assert limited_protocol(saved, steps, 0).max_episode_steps == 500


def test_where_a_limit_is_refused_the_remedy_is_another(monkeypatch):
    monkeypatch.setattr(endless, "MAX_STEPS", 3)
    own, spec, protocol = parts(endless_config())
    source = Source(make_spec=own.make_spec, make_pool=own.make_pool)  # Keeps no settings.
    said = r"takes no env\.max_episode_steps: train with evaluate\.every_updates=0"
    with pytest.raises(ConfigError, match=said) as caught:
        endless.check_ends(source, spec, protocol, seed=1, remedy="Do.")
    assert "Do." not in str(caught.value)
    assert not endless._takes_limit(load_source("envpool"), EnvConfig(id="Catch-v0"))  # Is never truncated.


def test_an_evaluation_whose_policy_ends_no_episode_is_stopped(monkeypatch):
    monkeypatch.setattr(endless, "MAX_STEPS", 50)
    _, _, protocol = parts(endless_config())
    guard = endless.EndlessGuard(protocol)
    for step in range(60):
        guard(1 if step >= 10 else 0, step)
    with pytest.raises(RuntimeError, match=r"No episode of .*Endless has ended in the last 50 steps"):
        guard(1, 61)


class PlaysOn(gymnasium.Wrapper):
    """Resets on truncation, and tells no one."""

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        if truncated:
            observation, info = self.env.reset()
        return observation, reward, terminated, False, info


def plays_on():
    return PlaysOn(gymnasium.wrappers.TimeLimit(Endless(), 5))


class Unenforced(Endless):
    """Knows of a time limit that no one keeps."""

    spec = gymnasium.envs.registration.EnvSpec("Unenforced-v0", max_episode_steps=7)


def test_a_time_limit_that_is_not_kept_to_is_found_out():
    source, _, protocol = parts(
        short_runs.make_config("tests.evaluation.test_endless:plays_on", env__source="gymnasium")
    )
    assert protocol.max_episode_steps == 5
    pool = source.make_pool(protocol.env, seeds=[1], num_threads=1)
    pool.reset()
    for _ in range(10):
        pool.send(np.zeros(1, np.int32))
        assert not pool.recv().first.any()
    pool.close()
    guard = endless.EndlessGuard(protocol)
    guard(0, 60)
    with pytest.raises(RuntimeError, match=r"in the last 60 steps .* such as one of env\.wrappers, plays on"):
        guard(0, 61)
    _, _, protocol = parts(short_runs.make_config("tests.evaluation.test_endless:Unenforced", env__source="gymnasium"))
    assert protocol.max_episode_steps is None


def test_episodes_of_several_environments_that_end_at_their_limit_are_let_through():
    guard = endless.EndlessGuard(EvaluationProtocol(env=EnvConfig(id="x"), max_episode_steps=5))
    ended = 0
    for step in range(1, 400):
        ended += (step % 6 == 0) + (step % 6 == 3 and step < 100)
        guard(ended, step)


@pytest.mark.parametrize("source", [Source(make_spec=print, make_pool=print), load_source("gymnasium")])
def test_an_option_is_no_other_fact_of_an_evaluation(source):
    """Of a source without a protocol of its own, and of one with."""
    options = {"max_episode_steps": 3, "wrappers": 1}
    training = {"max_episode_steps": 7, "training_wrappers": ("tests.evaluation.test_endless:PlaysOn",)}
    protocol = evaluation_protocol(
        source, EnvConfig(id="tests.evaluation.test_endless:takes_all", options=options, **training)
    )
    assert protocol.facts == {"max_episode_steps": 7, "options.max_episode_steps": 3, "options.wrappers": 1}
    assert protocol.env.training_wrappers == ()


def takes_all(**options):
    return Endless()
