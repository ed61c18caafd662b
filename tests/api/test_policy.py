"""A policy in a loop of Gymnasium's scores what `tools/evaluate.py` does, whatever its network, carry and actions."""

import dataclasses
import functools
import json
import os
import re
import subprocess
import sys

import gymnasium
import numpy as np
import pytest

import podrl
from podrl.envs.seeds import env_seeds
from podrl.ops.keys import EVALUATE
from podrl.runtime.machine import jax_plugins
from tests.api.short import train
from tests.envs import jax_sides
from tests.envs.sides import Limited
from tests.processes import LIMIT_S, ROOT, environment
from tools import evaluate

SEED, EPISODES = 1, 4
GYMNASIUM = {"env__source": "gymnasium", "actors__env_threads": 0}
LIMITED = {"start": 5, "middle": 4.0, "reach": 2.0}
RUNS = {
    "lstm": {
        **GYMNASIUM,
        **{"env__id": "CartPole-v1", "network__core": "lstm", "network__core_size": 8, "network__last_action": True},
        **{"network__last_reward": True, "agent__optimizer__learning_rate": 0.05, "checkpoint__every_updates": 2},
    },
    "plain": {**GYMNASIUM, "env__id": "CartPole-v1"},
    "continuous": {
        **GYMNASIUM,
        **{"env__id": "Pendulum-v1", "network__normalize_observations": True, "network__frame_stack": 2},
        "env__max_episode_steps": 50,
    },
    "parts": {
        **GYMNASIUM,
        **{"env__id": "tests.envs.sides:Limited", "env__options": LIMITED, "network__encoder": "minatar"},
        **{"network__frame_stack": 2, "network__hidden_sizes": (8,)},
    },
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, overrides in RUNS.items():
        train(folder / name, **overrides)
    return folder


def play(policy, envs, *, reward_too):
    """The returns of the first episode of each environment, which all have seeds of an evaluation."""
    size = envs.num_envs
    policy.reset(size, seed=SEED)
    observation, _ = envs.reset(seed=env_seeds((SEED, 0, EVALUATE), range(size)))
    first, reward, done = np.ones(size, bool), np.zeros(size), np.zeros(size, bool)
    returns = np.zeros(size)
    while not done.all():
        action = policy.act(observation, first=first, **({"reward": reward} if reward_too else {}))
        of_space = action if isinstance(action, dict) else np.asarray(action, envs.action_space.dtype)
        assert envs.action_space.contains(of_space)
        observation, reward, terminated, truncated, _ = envs.step(action)
        returns += np.where(done, 0, reward.astype(np.float32))
        first = terminated | truncated  # Gymnasium resets on the next step.
        done |= first
    return returns


def make_env(policy):
    config = policy.run.config.env
    return Limited(**config.options) if config.options else gymnasium.make(config.id)


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        *(("lstm", "sampled"), ("continuous", "greedy"), ("parts", "sampled")),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (("lstm", "greedy"), ("continuous", "sampled"), ("parts", "greedy"))
        ),
    ],
)
def test_its_returns_are_those_of_an_evaluation(runs, tmp_path, name, policy):
    report = tmp_path / "report.json"
    arguments = ["--workdir", runs / name, "--episodes", EPISODES, "--policy", policy, "--json", report]
    assert evaluate.main(["evaluate.py", *map(str, arguments)]) == 0
    expected = json.loads(report.read_text())["policies"][policy]
    loaded = podrl.load_policy(runs / name, policy=policy)
    envs = gymnasium.vector.SyncVectorEnv([functools.partial(make_env, loaded)] * EPISODES)
    returns = play(loaded, envs, reward_too=name == "lstm")
    np.testing.assert_allclose(returns, expected["returns"], rtol=1e-6)
    assert len(set(returns.tolist())) > 1


def test_a_single_environment_gets_what_each_of_several_does(runs):
    """Without an axis in front; the keys of environment 0 are another where there are more."""
    policy = podrl.load_policy(runs / "lstm")
    env = gymnasium.make("CartPole-v1")
    taken = []
    for size in (None, 3):
        policy.reset(size)
        observation, _ = env.reset(seed=3)
        actions, first, reward = [], True, 0.0
        for _ in range(9):
            seen = observation if size is None else np.stack([observation] * size)
            action = policy.act(seen, first=first, reward=reward)
            assert np.shape(action) == (() if size is None else (size,))
            assert size or env.action_space.contains(action)
            chosen = action if size is None else action[0]
            observation, reward, first, _, _ = env.step(chosen)
            actions.append(int(chosen))
        taken.append(actions)
    assert taken[0] == taken[1]


def test_a_single_environment_of_parts_gets_its_own_choices_and_units(runs):
    """The third option is forbidden; numbers lie around 4, and choices start at 5."""
    policy = podrl.load_policy(runs / "parts", policy="sampled")
    env = make_env(policy)
    observation, _ = env.reset(seed=3)
    actions, ended = [], False
    while not ended:
        actions.append(policy.act(observation))
        assert env.action_space.contains(actions[-1])
        observation, reward, ended, _, _ = env.step(actions[-1])
        assert reward <= 1
    assert {int(action["side"]) for action in actions} <= {5, 6}


@pytest.mark.slow
def test_a_jax_environment_with_parts_and_a_mask_plays_in_podrls_own_form(tmp_path):
    settings = {"env__id": "aim", "env__source": "tests.envs.jax_sides", "network__encoder": "minatar"}
    train(tmp_path / "run", network__hidden_sizes=(8,), **settings)
    report = tmp_path / "report.json"
    arguments = ["--workdir", tmp_path / "run", "--episodes", EPISODES, "--policy", "sampled", "--json", report]
    assert evaluate.main(["evaluate.py", *map(str, arguments)]) == 0
    policy = podrl.load_policy(tmp_path / "run", policy="sampled")
    policy.reset(EPISODES, seed=SEED)
    seeds = env_seeds((SEED, 0, EVALUATE), range(EPISODES))
    pool = jax_sides.make_pool(policy.run.config.env, seeds=seeds, num_threads=1)
    timestep, returns = pool.reset(), np.zeros(EPISODES)
    for _ in range(4):
        pool.send(policy.act(timestep.observation, first=timestep.first))
        timestep = pool.recv()
        returns += timestep.reward
    expected = json.loads(report.read_text())["policies"]["sampled"]["returns"]
    np.testing.assert_allclose(returns, expected, rtol=1e-6)
    assert 0 < returns.max() <= 4


def test_the_carry_matters_and_an_opening_forgets_it(runs):
    policy = podrl.load_policy(runs / "lstm", policy="greedy")
    observation = np.array([0.01, -0.2, 0.05, 0.1], np.float32)

    def carries(firsts):
        policy.reset()
        for first in firsts:
            policy.act(observation, first=first, reward=0)
        return np.concatenate([np.ravel(leaf) for leaf in _leaves(policy._carry)])

    assert (carries([True]) == carries([True, False, True])).all()
    assert (carries([True]) != carries([True, False])).any()
    policy.reset()
    policy.act(observation)  # The first call after a reset opens an episode.
    assert (np.concatenate([np.ravel(leaf) for leaf in _leaves(policy._carry)]) == carries([True])).all()


def _leaves(tree):
    import jax

    return jax.tree.leaves(tree)


def test_a_checkpoint_can_be_chosen(runs):
    policies = [podrl.load_policy(runs / "lstm", step=step) for step in (2, 4)]
    assert [policy.run.counters.learner_steps for policy in policies] == [2, 4]
    with pytest.raises(podrl.ConfigError, match=r"^step=3 has no checkpoint in .* There are: 2, 4"):
        podrl.load_policy(runs / "lstm", step=3)


def test_mistakes_are_one_line(runs, tmp_path):
    with pytest.raises(podrl.ConfigError, match=r"policy='best' is not known.* Available: greedy, sampled"):
        podrl.load_policy(runs / "lstm", policy="best")
    with pytest.raises(podrl.ConfigError, match=f"^workdir={tmp_path} is not the folder of a run"):
        podrl.load_policy(tmp_path)
    with pytest.raises(podrl.ConfigError, match=r"The environment observes .*the agent was trained on .*CartPole-v1"):
        podrl.load_policy(runs / "lstm", env=gymnasium.make("MountainCar-v0"))
    policy = podrl.load_policy(runs / "lstm")
    with pytest.raises(ValueError, match=r"Found observation float32\[3\]; expected one of Box"):
        policy.act(np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="sees its last reward"):
        policy.act(np.zeros(4, np.float32), first=False)
    for number in (0, -1):
        with pytest.raises(ValueError, match=f"^num_envs={number} must be at least 1"):
            policy.reset(number)
    policy.reset(3)
    with pytest.raises(ValueError, match=r"Found observations of shape \(2, 4\); expected \(3, 4\)"):
        policy.act(np.zeros((2, 4), np.float32))


@pytest.mark.skipif(bool(jax_plugins()), reason="JAX has an accelerator's plugin, and is left to choose.")
def test_it_does_not_look_for_an_absent_tpu(runs, tmp_path):
    (tmp_path / "libtpu").mkdir()
    (tmp_path / "libtpu/__init__.py").touch()
    code = "import sys, podrl; podrl.load_policy(sys.argv[1]); import jax; print(jax.config.values['jax_platforms'])"
    env = environment() | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "JAX_PLATFORMS": ""}
    run = [sys.executable, "-c", code, str(runs / "plain")]
    ended = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=LIMIT_S)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "cpu\n"
    assert "libtpu" not in ended.stderr


def test_an_environment_of_another_source_says_how_it_looks(runs):
    """Without one, sources that are not Gymnasium's have podrl's own form."""
    policy = podrl.load_policy(runs / "lstm")
    bare = dataclasses.replace(policy.run, source=dataclasses.replace(policy.run.source, make_spaces=None))
    from podrl.api.policy import _find_border

    border = _find_border(bare, None)
    assert border.encode([[1, 2, 3, 4]]).dtype == np.float32
    assert border.join(border.decode(np.array([1]))) == [1]


def test_actions_have_the_units_of_the_environment(runs):
    policy = podrl.load_policy(runs / "continuous", env=gymnasium.make("Pendulum-v1"))
    actions = np.array([policy.act(np.array([1, 0, speed], np.float32)) for speed in np.linspace(-8, 8, 20)])
    assert actions.shape == (20, 1)
    assert actions.dtype == np.float32
    assert (np.abs(actions) <= 2).all()


def test_the_loops_that_the_docs_show_play(runs):
    text = (ROOT / "docs/python.md").read_text()
    single, several = re.findall(r"```python\n([^`]*policy\.act.*?)```", text, re.S)
    values = {"import podrl": None, '"runs/lander"': repr(str(runs / "plain")), "LunarLander-v3": "CartPole-v1"}
    for old, new in {**values, "range(1000)": "range(3)"}.items():
        single, several = (block.replace(old, new or old) for block in (single, several))
    names = {"podrl": podrl}
    exec(single, names)
    assert names["ended"]
    exec(several, names)
    assert names["action"].shape == (8,)
