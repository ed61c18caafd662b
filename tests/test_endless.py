"""Time limits of evaluations, and evaluations that could not end."""

import importlib

import gymnasium
import numpy as np
import pytest

from podrl import endless
from podrl.assembly import load_environment
from podrl.config import ConfigError
from podrl.envs import evaluation_protocol
from podrl.train import train
from tests import runs

evaluate = importlib.import_module("tools.evaluate")
ENDLESS = "tests.test_endless:Endless"


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
    return runs.make_config(ENDLESS, env__source="gymnasium", actors__num_envs=32, total_env_steps=256, **overrides)


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
        config = runs.make_config(env_id, env__source=source, env__max_episode_steps=limit)
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


def test_an_episode_that_ends_by_itself_needs_no_limit():
    for steps, is_refused in ((20, False), (21, True)):
        source, spec, protocol = parts(endless_config(env__options={"ends_after": steps}))
        arguments = {"seed": 1, "remedy": "Do.", "max_steps": 21}
        if is_refused:
            with pytest.raises(ConfigError, match=r"no episode ended in 21 steps of random play\. Do\."):
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


def test_an_evaluation_whose_policy_ends_no_episode_is_stopped(monkeypatch):
    monkeypatch.setattr(endless, "MAX_STEPS", 50)
    _, _, protocol = parts(endless_config())
    guard = endless.EndlessGuard(protocol)
    for step in range(60):
        guard(1 if step >= 10 else 0, step)
    with pytest.raises(RuntimeError, match=r"No episode of .*Endless has ended in the last 50 steps"):
        guard(1, 61)
