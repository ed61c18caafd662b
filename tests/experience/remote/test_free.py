"""Runs whose actors serve what environment workers have ready, with workers in this process."""

import collections
import itertools
import re

import jax
import numpy as np
import pytest

from podrl.config.config import ConfigError
from podrl.experience.actors import ActorError
from podrl.experience.parameters import ParameterStore
from podrl.experience.remote.pool_thread import PoolThread
from podrl.loops import sebulba
from podrl.types import Timestep
from tests.envs import scripted
from tests.experience.remote.in_process import env_workers, remote_config
from tests.short_runs import make_agent, run

POOLS, LAG = 4, 2
FREE = {"determinism": "free", "actors__pools_per_thread": POOLS, "actors__max_lag": LAG}


@pytest.fixture
def batches(monkeypatch):
    """The batches of a run, as the learner gets them, and the parameters by version."""
    seen, published = [], {}
    join, publish = sebulba.join_rollouts, ParameterStore.publish

    def record(rollouts, topology):
        joined = join(rollouts, topology)
        seen.append([jax.device_get(trajectory) for trajectory in joined])
        return joined

    def record_params(self, version, params):
        published[version] = jax.device_get(params)
        publish(self, version, params)

    monkeypatch.setattr(sebulba, "join_rollouts", record)
    monkeypatch.setattr(ParameterStore, "publish", record_params)
    return seen, published


def test_every_row_is_what_its_own_parameters_did(tmp_path, monkeypatch, batches):
    """Recomputed from the recorded observations, carry and versions; and nothing is lost or joined wrongly."""
    options = {"env__source": "tests.envs.scripted", "env__options": {"episode_lengths": (3, 5), "sleep_s": 0.002}}
    config = remote_config(
        tmp_path, **FREE, **options, network__core="lstm", network__core_size=8, total_env_steps=40 * 32
    )
    with env_workers(tmp_path, monkeypatch) as said:
        _, rows = run(config)
    seen, published = batches
    assert not said
    assert len(rows) == len(seen) == 40
    assert max(row["lag/max"] for row in rows) <= LAG
    agent, _ = make_agent(config)
    act, keys = jax.jit(agent.act), jax.random.split(jax.random.key(0), 2)
    for trajectory in (trajectory for batch in seen for trajectory in batch):
        assert (np.diff(trajectory.params_version, axis=0) >= 0).all()
        carry = trajectory.carry
        for t, version in enumerate(trajectory.params_version):
            assert len(set(version)) == 1
            timestep = timestep_of(trajectory, t)
            _, behaviour, carry = act(published[version[0]], timestep, carry, keys)
            for one, rows in zip(jax.tree.leaves(behaviour), jax.tree.leaves(trajectory.behaviour), strict=True):
                np.testing.assert_allclose(one, rows[t], rtol=1e-4, atol=1e-5)
        check_scripted(trajectory)
    check_continuity(seen)


def timestep_of(trajectory, t):
    reward = trajectory.opening_reward if t == 0 else trajectory.reward[t - 1]
    discount = np.ones_like(reward) if t == 0 else trajectory.discount[t - 1]
    return Timestep(observation=trajectory.observation[t], reward=reward, discount=discount, first=trajectory.first[t])


def check_scripted(trajectory):
    """The scripted environment says its step; a reset row has step 0."""
    step = trajectory.observation[..., 2]
    np.testing.assert_array_equal(trajectory.first, step == 0)
    np.testing.assert_array_equal(step[1:], np.where(trajectory.first[1:], 0, step[:-1] + 1))
    np.testing.assert_array_equal(trajectory.reward, step[1:])


def check_continuity(seen):
    """Every environment's unrolls follow each other: each begins with the row that the one before ended with.

    That may be in the same batch, at any place.
    """
    ends, starts = collections.Counter(), collections.Counter()
    for batch in seen:
        ends.update(key(trajectory.observation[-1], trajectory.reward[-1]) for trajectory in batch)
        for trajectory in batch:
            if trajectory.observation[0, :, 1:].any():  # Not that of an environment that was just opened.
                starts[key(trajectory.observation[0], trajectory.opening_reward)] += 1
        assert starts <= ends


def key(observation, reward):
    return observation.tobytes(), reward.tobytes()


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(
            {
                "agent": "r2d2",
                "network__core": "lstm",
                "network__core_size": 8,
                "replay__capacity": 512,
                "actors__num_envs": 16,
                "total_env_steps": 640,
                "replay__batch": 4,
                "replay__groups": 4,
                "replay__ratio": 1.0,
                "replay__min_steps": 64,
                "replay__priority_exponent": 0.6,
                "agent__burn_in": 4,
                "agent__length": 4,
            },
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"agent": "ppo", "agent__minibatches": 2, "network__normalize_rewards": True}, marks=pytest.mark.slow
        ),
        {"agent": "impact", "network__frame_stack": 2},
        pytest.param({"actors__max_lag": 0, "actors__threads_per_device": 2}, marks=pytest.mark.slow),
        pytest.param({"remote__batch_largest": 2, "remote__batch_smallest": 1}, marks=pytest.mark.slow),
    ],
    ids=["R2D2", "PPO", "IMPACT", "no lag", "single pools"],
)
def test_agents_learn_from_what_is_ready(tmp_path, monkeypatch, settings):
    config = remote_config(tmp_path, **{**FREE, "env__source": "tests.envs.delayed", **settings})
    with env_workers(tmp_path, monkeypatch) as said:
        _, rows = run(config)
    assert not said
    assert len(rows) == 10
    assert all(np.isfinite(row.get("loss/total", 0.0)) for row in rows)
    assert max(row["lag/max"] for row in rows) <= config.actors.max_lag


@pytest.mark.slow
def test_numbers_of_info_are_counted_for_each_environment(tmp_path, monkeypatch):
    settings = {
        "env__source": "gymnasium",
        "env__id": "tests.envs.informed:Informed",
        "env__options": {"lengths": (2, 3)},
        "log__info_keys": ("*", "max:parts/*"),
    }
    with env_workers(tmp_path, monkeypatch) as said:
        _, rows = run(remote_config(tmp_path, **FREE, **settings))
    assert not said
    assert any("episode/info/parts/a" in row for row in rows)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"actors__pools_per_thread": 1, "actors__threads_per_device": 2}, "actors.pools_per_thread=2"),
        ({"remote__batch_smallest": 7, "remote__batch_largest": 6}, "remote.batch_smallest=7 is more than"),
        ({"remote__batch_smallest": 9}, "an actor thread serves at once: 8 environments"),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_starts(tmp_path, settings, match):
    with pytest.raises(ConfigError, match=match):
        run(remote_config(tmp_path, **{**FREE, **settings}))


def test_a_value_that_is_not_finite_is_named_with_the_rollout_that_has_it(tmp_path, monkeypatch):
    """Others complete the rollout that was being filled when it came: it is in a later one."""
    monkeypatch.setattr(scripted, "_pool_numbers", itertools.count(1))
    faults = {"nan_at_step": 1, "hang_at_step": 2, "hang_s": 0.5, "only_in_pool": 1}
    config = remote_config(tmp_path, **FREE, env__source="tests.envs.scripted", env__options=faults)
    with env_workers(tmp_path, monkeypatch), pytest.raises(RuntimeError) as error:
        run(config)
    said = str(error.value)
    found = re.search(r"Update (\d+) is not finite.*: the reward .* is nan, at step 1 of rollout (\d+) of", said)
    assert found, said
    assert int(found[1]) == int(found[2]) + 1 > 1


@pytest.mark.slow
def test_environments_that_cannot_be_made_at_the_start_end_the_run(tmp_path, monkeypatch):
    def fail(self, fields):
        raise RuntimeError("these cannot be made")

    monkeypatch.setattr(PoolThread, "_open", fail)
    failed = pytest.raises(ActorError, match=r"environment worker \d \(.*failed: RuntimeError: these cannot be made")
    with env_workers(tmp_path, monkeypatch) as said, failed:
        run(remote_config(tmp_path, **FREE))
    assert len(said) == 2
