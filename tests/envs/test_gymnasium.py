"""Gymnasium's environments, and users' own."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys

import gymnasium
import jax
import numpy as np
import pytest

from podrl.actions import ContinuousActions, DiscreteActions
from podrl.config.config import ENV_SETTINGS, ConfigError, EnvConfig
from podrl.envs.sources.gymnasium import evaluation_protocol, make_picture_pool, make_pool, make_spec, option_hints
from podrl.envs.workers.batch import EnvFailure
from podrl.runtime.stop_signals import EXIT_CODES
from tests.envs.corridor import Corridor
from tests.processes import ROOT, wait_for

CORRIDOR = "tests.envs.corridor:Corridor"
HERE = "tests.envs.test_gymnasium"
NAMED = f"{HERE}:Named"


def own(env_id=CORRIDOR, keys=(), **values):
    settings = {name: values.pop(name) for name in ENV_SETTINGS if name in values}
    return EnvConfig(source="gymnasium", id=env_id, observation_keys=keys, **settings, options=values)


@contextlib.contextmanager
def opened(config, seeds=(7,)):
    pool = make_pool(config, seeds=list(seeds), num_threads=1)
    try:
        yield pool, pool.reset()
    finally:
        pool.close()


def step(pool, action):
    pool.send(np.asarray(action))
    return pool.recv()


def play(config, actions, seeds=(7,)):
    """Timesteps with time leading, as a dictionary of arrays."""
    with opened(config, seeds) as (pool, timestep):
        timesteps = [timestep, *(step(pool, action) for action in actions)]
    return {
        name: np.array([getattr(t, name) for t in timesteps]) for name in ("observation", "reward", "discount", "first")
    }


def test_the_timesteps_are_gymnasiums_own():
    actions = np.random.default_rng(0).uniform(-1, 1, (450, 1, 1)).astype(np.float32)
    played = play(own("Pendulum-v1"), actions)
    env = gymnasium.make("Pendulum-v1")
    observation, _ = env.reset(seed=7)
    expected, over = [(observation, 0.0, True)], False
    for action in actions:
        if over:
            (observation, _), reward, first, over = env.reset(), 0.0, True, False
        else:
            observation, reward, _, over, _ = env.step(2 * action[0])
            first = False
        expected.append((observation, reward, first))

    np.testing.assert_array_equal(played["observation"][:, 0], [observation for observation, _, _ in expected])
    np.testing.assert_array_equal(played["reward"][:, 0], np.float32([reward for _, reward, _ in expected]))
    np.testing.assert_array_equal(played["first"][:, 0], [first for _, _, first in expected])
    assert np.flatnonzero(played["first"]).tolist() == [0, 201, 402]
    assert (played["discount"] == 1).all()  # Pendulum ends by truncation only.


def test_termination_and_truncation():
    right, left = [[1]] * 12, [[0]] * 12
    reached = play(own(length=3, max_episode_steps=4), right)
    never = play(own(length=3, max_episode_steps=4), left)

    ends = np.flatnonzero(reached["discount"][:, 0] == 0)
    assert len(ends) >= 3
    np.testing.assert_array_equal(reached["reward"][:, 0] == 1, reached["discount"][:, 0] == 0)
    np.testing.assert_array_equal(np.flatnonzero(reached["first"])[1:], ends[ends < 12] + 1)
    assert (never["discount"] == 1).all()
    assert np.flatnonzero(never["first"]).tolist() == [0, 5, 10]


def test_an_episode_that_ends_on_its_time_limit_by_itself_is_terminated():
    start = int(play(own(keys=("position",)), [])["observation"][0, 0].argmax())
    limited = play(own(max_episode_steps=4 - start), [[1]] * (4 - start))

    assert limited["discount"][-1] == 0


def lengths(config, num_steps=120):
    """Steps of the episodes that end, without the reset rows between them."""
    ends = np.flatnonzero(play(config, [[0]] * num_steps)["first"][:, 0])
    return {int(length) for length in np.diff(ends) - 1}


class Named(Corridor):
    """Has constructor arguments of the names of podrl's settings."""

    def __init__(self, max_episode_steps: int = 8, workers: int = 1, wrappers: str = "", worker_timeout_s: float = 1.0):
        super().__init__(length=3)
        self.limit = max_episode_steps + workers

    def step(self, action):
        observation, reward, _, _, extras = super().step(action)
        return observation, reward, False, self._steps == self.limit, extras


def limited():
    return gymnasium.wrappers.OrderEnforcing(gymnasium.wrappers.TimeLimit(Named(100), 20))


def anything(**options):
    return Named(**options)


gymnasium.register(id="tests/Named-v0", entry_point=Named, max_episode_steps=50)


@pytest.mark.parametrize(
    ("config", "length"),
    [
        (own(NAMED), 9),
        (own(NAMED, max_episode_steps=4), 4),
        (EnvConfig(source="gymnasium", id=NAMED, options={"max_episode_steps": 20, "workers": 2}), 22),
        (EnvConfig(source="gymnasium", id=NAMED, max_episode_steps=5, options={"max_episode_steps": 20}), 5),
        (EnvConfig(source="gymnasium", id=f"{HERE}:tests/Named-v0", options={"max_episode_steps": 20}), 21),
        (EnvConfig(source="gymnasium", id=f"{HERE}:anything", options={"max_episode_steps": 20}), 21),
        (own(f"{HERE}:limited"), 20),
        (own(f"{HERE}:limited", max_episode_steps=40), 40),
        (own("tests.envs.corridor:tests/Corridor-v0", max_episode_steps=9), 9),
    ],
)
def test_settings_of_podrls_and_arguments_of_the_same_name_do_not_meet(config, length):
    assert lengths(config) == {length}


def test_workers_change_nothing():
    actions = np.random.default_rng(0).integers(0, 2, (40, 5))
    alone = play(own(length=4), actions, seeds=range(5))
    for workers in (1, 2, 9):
        shared = play(own(length=4, workers=workers), actions, seeds=range(5))
        for name, array in alone.items():
            np.testing.assert_array_equal(shared[name], array)


def test_specs():
    pendulum, corridor = make_spec(own("Pendulum-v1")), make_spec(own(length=6))
    assert (pendulum.observation.shape, pendulum.actions) == ((3,), ContinuousActions(1))
    assert corridor.observation == jax.ShapeDtypeStruct((8,), np.float32)
    assert corridor.actions == DiscreteActions(2)
    assert make_spec(own(length=6, keys=("position",))).observation.shape == (6,)


def test_four_kinds_of_names(tmp_path, monkeypatch):
    assert make_spec(own("CartPole-v1")).observation.shape == (4,)
    assert make_spec(own("tests.envs.corridor:tests/Corridor-v0", length=3)).observation.shape == (5,)
    assert make_spec(own("tests.envs.corridor:long_corridor", length=4)).observation.shape == (6,)
    (tmp_path / "my_corridor.py").write_text("from tests.envs.corridor import Corridor as Mine\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert make_spec(own("my_corridor:Mine")).observation.shape == (7,)


def test_wrappers_go_around_it_in_their_order():
    wrappers = ("gymnasium.wrappers:FlattenObservation", "tests.envs.test_gymnasium:doubled")
    flat = play(own(wrappers=wrappers), [])["observation"][0, 0]
    plain = play(own(), [])["observation"][0, 0]

    np.testing.assert_array_equal(
        flat, 2 * np.roll(plain, -2)
    )  # Gymnasium keeps the entries in the order of the space.


def doubled(env):
    return gymnasium.wrappers.TransformObservation(env, lambda x: 2 * x, env.observation_space)


def test_evaluation_plays_whole_episodes_at_the_environments_speed():
    protocol = evaluation_protocol(
        own("tests.envs.corridor:tests/Corridor-v0", length=3, max_episode_steps=2, workers=2)
    )

    assert (protocol.env.options, protocol.env.workers, protocol.env.max_episode_steps) == ({"length": 3}, 2, 0)
    assert protocol.facts == {"max_episode_steps": 6, "options.length": 3}
    assert protocol.steps_per_second == 7
    assert evaluation_protocol(own("tests.envs.corridor:long_corridor")).facts == {"max_episode_steps": 4}
    assert evaluation_protocol(own()).facts == {"max_episode_steps": "none"}


def test_pictures():
    pool = make_picture_pool(own(), seeds=[1, 2], num_threads=1)
    positions = pool.reset().observation[:, 2:].argmax(axis=1)

    assert [pool.picture(env)[0, :, 0].argmax() for env in range(2)] == positions.tolist()
    with pytest.raises(ConfigError, match="long_corridor' has no pictures: its constructor takes no render_mode"):
        make_picture_pool(own("tests.envs.corridor:long_corridor"), seeds=[1], num_threads=1)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (own("CartPol-v1"), "env.id='CartPol-v1' is not registered with Gymnasium; did you mean 'CartPole-v1'"),
        (own("ALE/Pongs-v5"), "env.source='ale'"),
        (own("CartPole-v1", gravity=3), "env.options.gravity is not an option of CartPole-v1.*Available: sutton_barto"),
        (own("CartPole-v1", render_mode="human"), "env.options.render_mode is not yours to set"),
        (own("CartPole-v1", wrappers=("os:getpid2",)), "env.wrappers: 'os:getpid2' is nothing that can be called"),
        (
            own(length=1),
            "env.id='tests.envs.corridor:Corridor' cannot be made: ValueError: length=1 must be at least 2",
        ),
        (own(lenght=3), "env.options.lenght is not an option of .*; did you mean 'length'[?] Available: exit_at,"),
        (own("my_nowhere:Env"), "there is no module 'my_nowhere', neither on Python's path nor in /"),
        (
            own("tests.envs.corridor:Coridor"),
            "has no 'Coridor'.*did you mean 'Corridor'[?] Environments in that module",
        ),
        (own("tests.envs.corridor:No/Such-v3"), "has no 'No/Such-v3', and Gymnasium knows no such id"),
        (own("tests.envs.corridor:not_callable"), "is of type int; expected a gymnasium.Env class"),
        (own("tests.envs.corridor:NoEnv"), "is a class, but no gymnasium.Env"),
        (own("tests.envs.corridor:nothing"), "made a NoneType; expected a gymnasium.Env"),
        (own("tests.envs.corridor:Spaceless"), "has no observation_space: set self.observation_space"),
        (own("tests.envs.corridor:OldInterface"), r"step\(\) must return .*; found a tuple of 4"),
        (own("tests.envs.corridor:OldReset"), r"reset\(\) must return \(observation, info\).*; found type dict"),
        (own("tests.envs.corridor:SeedlessReset"), r"reset\(\) must take a seed"),
        (own("tests.envs.corridor:WrongShape"), r"reset\(\) returned an observation of type dict, which does not fit"),
        (own("tests.envs.corridor:WrongReward"), r"step\(\) must return a number as reward; found float64\[2\]"),
        (own("tests.envs.corridor:WrongEnd"), "must return bools as terminated and truncated; found None and False"),
    ],
    ids=lambda value: f"{value.id}-{'-'.join(value.options)}" if isinstance(value, EnvConfig) else "",
)
def test_mistakes_are_one_clear_error(config, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make_spec(config)
    assert "\n" not in str(caught.value)


def test_a_package_that_gymnasium_misses_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "Box2D", None)
    monkeypatch.delitem(sys.modules, "gymnasium.envs.box2d.lunar_lander", raising=False)
    with pytest.raises(ConfigError, match=r"Gymnasium cannot make env.id='LunarLander-v3'.*Box2D is not installed"):
        make_spec(own("LunarLander-v3"))


def test_a_package_that_a_users_module_misses_is_not_called_an_unknown_module(tmp_path, monkeypatch):
    (tmp_path / "needy_env.py").write_text("import a_package_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)

    said = "module 'needy_env' needs a module that is not installed: No module named 'a_package_that_nobody_has'"
    with pytest.raises(ConfigError, match=said):
        make_spec(own("needy_env:Env"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("raise RuntimeError('no display')", "RuntimeError: no display"),
        ("import sys; sys.exit()", r"sys.exit\(\)"),
        ("1 +", "SyntaxError: invalid syntax"),
        ("from gymnasium import Nothing", "ImportError: cannot import name 'Nothing' from 'gymnasium'"),
    ],
)
def test_a_module_that_raises_at_import_is_named(tmp_path, monkeypatch, line, said):
    name = f"raising_{abs(hash(line))}"
    (tmp_path / f"{name}.py").write_text(line + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    for make in (lambda: make_spec(own(f"{name}:Env")), lambda: make_spec(own("CartPole-v1", wrappers=(f"{name}:W",)))):
        with pytest.raises(ConfigError, match=f"module '{name}' failed while it was imported: {said}"):
            make()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_environment_that_raises_is_named(workers):
    # Of these seeds, only the third and the fourth start at position 2.
    seeds, start = range(6), 2
    with opened(own(keys=("position",)), seeds) as (_, timestep):
        failing = int(np.flatnonzero(timestep.observation.argmax(axis=1) == start)[0])
    with opened(own(raise_at=2, only_at=start, workers=workers), seeds) as (pool, _):
        step(pool, [0] * 6)
        with pytest.raises(
            EnvFailure, match=rf"Environment {failing} of the pool \(seed {failing}\) failed in step: "
        ) as e:
            step(pool, [0] * 6)
    assert "corridor has collapsed" in str(e.value.__cause__)
    assert not workers or "corridor.py" in str(e.value.__cause__)  # With the stack of the other process.


def test_a_worker_that_hangs_is_waited_for_no_longer_than_allowed():
    with opened(own(hang_at=2, workers=2, worker_timeout_s=2), range(4)) as (pool, _):
        step(pool, [0] * 4)
        with pytest.raises(TimeoutError, match=r"0 to 1 of the pool has not answered for 2 s.*busy with environment 0"):
            step(pool, [0] * 4)
    # `opened` has closed the pool: by force.


def test_a_worker_that_dies_is_named():
    with (
        opened(own(exit_at=1, workers=2), range(4)) as (pool, _),
        pytest.raises(
            EnvFailure, match="of environments 0 to 1 of the pool ended with exit code 3, busy with environment 0"
        ),
    ):
        step(pool, [0] * 4)


def workers_of(parent):
    """Process ids of the workers that a process has."""
    shown = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(parent)], capture_output=True, text=True, check=False
    )
    return [int(line.split()[0]) for line in shown.stdout.splitlines() if "podrl.envs.workers.worker" in line]


def test_a_worker_that_is_killed_is_named_and_the_others_end():
    with opened(own(workers=2), range(4)) as (pool, _):
        first, second = workers_of(os.getpid())
        os.kill(second, signal.SIGKILL)
        with pytest.raises(EnvFailure, match="environments 2 to 3 of the pool was killed by SIGKILL"):
            step(pool, [0] * 4)
    assert workers_of(os.getpid()) == []
    assert first


def test_workers_do_not_outlive_a_process_that_is_killed():
    program = (
        "import time, numpy as np\n"
        "from tests.envs.test_gymnasium import own\n"
        "from podrl.envs.sources.gymnasium import make_pool\n"
        "pool = make_pool(own(hang_at=1, workers=2), seeds=range(4), num_threads=1)\n"
        "pool.reset()\n"
        "pool.send(np.zeros(4, np.int32))\n"
        "print('hanging', flush=True)\n"
        "time.sleep(3600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout.readline() == "hanging\n"
        workers = workers_of(process.pid)
        process.kill()
    assert len(workers) == 2
    wait_for(lambda: not any(os.path.exists(f"/proc/{worker}") for worker in workers))


def test_workers_leave_signals_to_their_parent():
    with opened(own(workers=1), range(2)) as (pool, _):
        (worker,) = workers_of(os.getpid())
        assert os.getpgid(worker) != os.getpgid(0)
        for number in EXIT_CODES:
            os.kill(worker, number)
        step(pool, [0, 0])


def test_workers_import_no_jax():
    program = "import sys, podrl.envs.workers.worker, podrl.envs.workers.making; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_calls_in_the_wrong_order_raise():
    pool, action = make_pool(own(), seeds=[1, 2], num_threads=1), np.zeros(2, np.int32)

    with pytest.raises(RuntimeError, match=r"before reset\(\)"):
        pool.send(action)
    pool.reset()
    with pytest.raises(RuntimeError, match=r"without send\(\)"):
        pool.recv()
    with pytest.raises(ValueError, match=r"expected \(2,\)"):
        pool.send(action[:1])
    pool.send(action)
    with pytest.raises(RuntimeError, match="twice"):
        pool.send(action)
    with pytest.raises(RuntimeError, match="is running"):
        pool.reset()
    with pytest.raises(ValueError, match="needs seeds"):
        make_pool(own(), seeds=[], num_threads=1)


@pytest.mark.parametrize("options", [{}, {"size": 3}])
@pytest.mark.parametrize("body", ["raise RuntimeError('no\\nlicence')", "import sys; sys.exit(3)", ""])
def test_a_registered_environment_whose_module_fails_names_it(body, options, tmp_path, monkeypatch):
    name = f"failing_{abs(hash((body, bool(options))))}"
    (tmp_path / f"{name}.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    spec = gymnasium.envs.registration.EnvSpec("tests/Failing-v0", entry_point=f"{name}:Env")
    monkeypatch.setitem(gymnasium.registry, spec.id, spec)
    config = EnvConfig(source="gymnasium", id=spec.id, options=options)
    for function in (make_spec, option_hints):
        with pytest.raises(ConfigError, match=rf"cannot make env\.id='tests/Failing-v0': its module '{name}': ") as e:
            function(config)
        assert "\n" not in str(e.value)


class Odd(Corridor):
    """Annotations that cannot be evaluated, each in its way."""

    def __init__(self, length: "None + 1" = 3, width: "1 / 0" = 2):
        super().__init__(length)


def test_annotations_that_cannot_be_evaluated_leave_names_and_defaults():
    config = EnvConfig(source="gymnasium", id="tests.envs.test_gymnasium:Odd")
    assert option_hints(config) == {"length": int | float | None, "width": int | float | None}
    with pytest.raises(ConfigError, match=r"env\.options\.lenght is not an option of .*; did you mean 'length'"):
        make_spec(dataclasses.replace(config, options={"lenght": 3}))
