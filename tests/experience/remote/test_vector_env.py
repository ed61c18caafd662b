"""The Gymnasium face of environment workers: what its own vector environments do, by its own checks."""

import contextlib
import subprocess
import sys

import gymnasium
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.env_match import check_environments_match
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers.vector import DictInfoToList, NormalizeObservation, RecordEpisodeStatistics
import numpy as np
import pytest

from podrl.config.config import ConfigError
from podrl.experience.remote import RemoteVectorEnv
from podrl.experience.remote.connection import EnvWorkerError
from tests.experience.remote.in_process import env_workers
from tests.processes import LIMIT_S, ROOT, environment


@contextlib.contextmanager
def face(folder, monkeypatch, env_id="CartPole-v1", num_envs=5, num_workers=2, **settings):
    """Over workers in threads of this process."""
    settings = {"num_workers": num_workers, "address": f"unix:{folder}/s", "join_timeout_s": 20, **settings}
    with (
        env_workers(folder, monkeypatch, num_workers) as said,
        contextlib.closing(RemoteVectorEnv(env_id, num_envs, **settings)) as envs,
    ):
        yield envs
    assert not said


def step_often(envs):
    for _ in range(9):
        envs.step(np.zeros(envs.num_envs, int))


class Single(gymnasium.Env):
    """The one environment of a vector environment, for checks of single ones."""

    def __init__(self, envs):
        self.envs, self.has_ended = envs, False
        self.observation_space, self.action_space = envs.single_observation_space, envs.single_action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        observation, info = self.envs.reset(seed=seed, options=options)
        return observation[0], info

    def step(self, action):
        observation, reward, terminated, truncated, info = self.envs.step(np.asarray(action)[np.newaxis])
        return observation[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), info


def test_it_is_gymnasiums_own_vector_environment_step_by_step(tmp_path, monkeypatch):
    """Five environments over two workers, over episodes that terminate and that are truncated."""
    modes = {"vectorization_mode": "sync", "vector_kwargs": {"autoreset_mode": AutoresetMode.NEXT_STEP}}
    ends = np.zeros(2, int)
    with (
        face(tmp_path, monkeypatch, max_episode_steps=20) as found,
        contextlib.closing(gymnasium.make_vec("CartPole-v1", num_envs=5, max_episode_steps=20, **modes)) as expected,
    ):
        assert found.metadata["autoreset_mode"] == expected.metadata["autoreset_mode"]
        assert found.action_space == expected.action_space
        expected.action_space.seed(1)
        np.testing.assert_array_equal(found.reset(seed=7)[0], expected.reset(seed=7)[0])
        for _ in range(150):
            action = expected.action_space.sample()
            theirs, ours = list(expected.step(action)), found.step(action)
            theirs[3] &= ~theirs[2]  # An episode that terminates at its time limit counts as terminated alone.
            for one, other in zip(ours[:4], theirs[:4], strict=True):
                np.testing.assert_array_equal(one, other)
                assert one.dtype == other.dtype
            assert ours[4] == theirs[4] == {}
            ends += ours[2].sum(), ours[3].sum()
    assert all(ends > 3)


@pytest.mark.filterwarnings("ignore:.*Box observation space (minimum|maximum) value is.*infinity")
@pytest.mark.filterwarnings("ignore:.*not within the observation space")
def test_gymnasiums_checks_of_single_environments_pass(tmp_path, monkeypatch):
    with face(tmp_path, monkeypatch, num_envs=1, num_workers=1) as envs:
        check_env(Single(envs), skip_render_check=True, skip_close_check=True)
        ours, theirs = Single(envs), gymnasium.make("CartPole-v1")
        ours.observation_space = theirs.observation_space  # Of which podrl keeps no bounds.
        check_environments_match(ours, theirs, 60, seed=3)


@pytest.mark.parametrize(
    ("env_id", "settings", "observation", "action"),
    [
        ("Pendulum-v1", {}, spaces.Box(-np.inf, np.inf, (3,)), spaces.Box(-1, 1, (1,))),
        ("FrozenLake-v1", {}, spaces.Box(-np.inf, np.inf, (16,)), spaces.Discrete(4)),
        ("Catch-v0", {"source": "envpool"}, spaces.Box(-np.inf, np.inf, (50,)), spaces.Discrete(3)),
        ("tests.envs.sides:Sides", {}, None, None),
    ],
)
def test_spaces_hold_what_comes(tmp_path, monkeypatch, env_id, settings, observation, action):
    with face(tmp_path, monkeypatch, env_id, **settings) as envs:
        assert envs.single_observation_space == (observation or envs.single_observation_space)
        assert envs.single_action_space == (action or envs.single_action_space)
        assert envs.observation_space == batch_space(envs.single_observation_space, 5)
        assert envs.action_space == batch_space(envs.single_action_space, 5)
        envs.action_space.seed(0)
        assert envs.reset(seed=0)[0] in envs.observation_space
        for _ in range(12):
            found, reward, terminated, truncated, _ = envs.step(envs.action_space.sample())
            assert found in envs.observation_space
            assert (reward.dtype, terminated.dtype, truncated.dtype) == (np.float64, bool, bool)
            assert reward.shape == terminated.shape == truncated.shape == (5,)
            for part in found.values() if isinstance(found, dict) else [found]:
                part += 1  # What it returns is the caller's.


def test_a_seed_repeats_and_none_draws(tmp_path, monkeypatch):
    def opening(**settings):
        return envs.reset(**settings)[0].tolist()

    with face(tmp_path, monkeypatch) as envs:
        first, other = opening(seed=3), opening(seed=4)
        assert other[:4] == first[1:]  # Environment i has seed + i.
        envs.step(envs.action_space.sample())
        assert opening(seed=[3, 4, 5, 6, 7]) == first == opening(seed=3)
        drawn = [opening() for _ in range(2)]
        opening(seed=3)
        assert [opening() for _ in range(2)] == drawn
        assert drawn[0] != drawn[1]
        with pytest.raises(ConfigError, match="2 seeds; expected 5"):
            opening(seed=[1, 2])


def test_numbers_of_info_come_with_the_last_step_of_an_episode(tmp_path, monkeypatch):
    options = {"lengths": (2, 3), "truncates": True}
    with face(
        tmp_path, monkeypatch, "tests.envs.informed:Informed", info_keys=("parts/a", "max:parts/b"), options=options
    ) as envs:
        envs.reset(seed=0)
        steps = [envs.step(np.zeros(5, int)) for _ in range(6)]
    ended = [step[3].all() for step in steps]
    assert ended == [False, True, False, False, False, True]  # Steps 2 and 3 of the episodes; the third step resets.
    assert not any(step[2].any() for step in steps)
    assert [bool(step[4]) for step in steps] == ended
    assert steps[5][4]["parts/a"].tolist() == [3.0] * 5
    assert steps[5][4]["_parts/a"].all()
    assert steps[5][4]["max:parts/b"] == pytest.approx([-1 / 3] * 5)


def test_gymnasiums_wrappers_go_around_it(tmp_path, monkeypatch):
    with face(tmp_path, monkeypatch, max_episode_steps=4) as envs:
        wrapped = DictInfoToList(RecordEpisodeStatistics(NormalizeObservation(envs)))
        wrapped.reset(seed=0)
        infos = [wrapped.step(np.ones(5, int))[4] for _ in range(4)]
    assert [info["episode"]["r"] for info in infos[3]] == [4.0] * 5
    assert [info["episode"]["l"] for info in infos[3]] == [4] * 5


def test_an_error_names_the_worker_and_a_reset_begins_anew(tmp_path, monkeypatch):
    options = {"how": "raise", "at": 3}
    with face(tmp_path, monkeypatch, "tests.envs.faulty:Faulty", options=options) as envs:
        envs.reset(seed=0)
        with pytest.raises(EnvWorkerError, match=r"environment worker \d \(.*, process \d+\) failed: .*seed \d+"):
            step_often(envs)
        assert envs.reset(seed=0)[0].shape == (5, 2)


def test_calls_that_cannot_work_are_one_line(tmp_path, monkeypatch):
    with face(tmp_path, monkeypatch) as envs:
        with pytest.raises(gymnasium.error.ResetNeeded, match="Call reset"):
            envs.step(np.zeros(5, int))
        with pytest.raises(ConfigError, match="pass no options"):
            envs.reset(options={"low": 1})
        envs.reset()
        with pytest.raises(ValueError, match=r"shape \(4,\); expected \(5,\)"):
            envs.step(np.zeros(4, int))
        envs.close()
        envs.close()
        with pytest.raises(gymnasium.error.ClosedEnvironmentError):
            envs.step(np.zeros(5, int))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"num_workers": 3}, "num_workers=3 must be from 1 to num_envs=2"),
        ({"wraps": ()}, r"setting='wraps' is not known; did you mean 'wrappers'\?"),
        ({"address": "node1:8470"}, "open to other hosts"),
        ({"source": "tests.envs.scripted"}, "gives no info"),
        ({"env_id": "NoSuch-v0"}, "NoSuch"),
    ],
)
def test_settings_that_cannot_work_are_one_line(settings, match):
    with pytest.raises(ConfigError, match=match):
        RemoteVectorEnv(**{"env_id": "CartPole-v1", "num_envs": 2, **settings})


def test_workers_that_do_not_come_are_told_of(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with (
        contextlib.closing(RemoteVectorEnv("CartPole-v1", 2, address=f"unix:{tmp_path}/s", join_timeout_s=0.1)) as envs,
        pytest.raises(TimeoutError, match="0 of 1 environment workers came"),
    ):
        envs.reset()


CLIENT = """
import gymnasium, os, signal, sys
from podrl.experience.remote import RemoteVectorEnv
envs = RemoteVectorEnv("CartPole-v1", 4, num_workers=2)
envs.reset(seed=0)
envs.step([0, 1, 0, 1])
print(*(process.pid for process in envs._own._processes))
sys.stdout.flush()
if sys.argv[1] == "kill": os.kill(os.getpid(), signal.SIGKILL)
raise RuntimeError("the client's own")
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["raise", "kill"])
def test_a_client_that_ends_without_a_word_leaves_no_worker_and_takes_no_accelerator(end):
    """JAX would fail to begin on a platform that does not exist."""
    result = subprocess.run(
        [sys.executable, "-c", CLIENT, end],
        env=environment() | {"JAX_PLATFORMS": "nothing", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert result.returncode == (1 if end == "raise" else -9), result.stderr
    pids = result.stdout.split()
    assert len(pids) == 2
    if end == "raise":
        assert result.stderr.rstrip().endswith("the client's own")
    subprocess.run(["timeout", "20", "tail", *(f"--pid={pid}" for pid in pids), "-f", "/dev/null"], check=True)
