"""A run with actor workers: which parameters make which rollout, and that only these cross the wire."""

import dataclasses

import jax
from jax import numpy as jnp
import pytest

from podrl.assembly import assemble
from podrl.config.config import ConfigError
from podrl.experience.remote.versions import rollouts_of
from podrl.experience.schedule import Schedule
from tests.experience.remote.in_process import actor_workers, remote_config
from tests.short_runs import facts, make_config, run, shared_programs

THREADS = {"actors__threads_per_device": 2, "actors__pools_per_thread": 1}


@pytest.fixture(scope="module", autouse=True)
def programs():
    with shared_programs():
        yield


DRIFT = {"remote__publish": "drift", "remote__max_drift": 4e-5, "env__source": "tests.envs.delayed"}


def run_with_workers(folder, monkeypatch, run_settings=None, **settings):
    settings = {"checkpoint__every_updates": 4, **settings}
    config = remote_config(folder, num_workers=0, remote__actor_workers=2, **THREADS, **settings)
    with actor_workers(folder, monkeypatch) as said:
        _, rows = run(config, **(run_settings or {}))
    assert not said
    return rows


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"remote__publish": "drift", "remote__max_drift": 0.0},
        pytest.param({"actors__lag": 0}, marks=pytest.mark.slow),
        pytest.param({"actors__lag": 2}, marks=pytest.mark.slow),
    ],
    ids=["every update", "no drift", "no lag", "more lag"],
)
def test_a_run_with_actor_workers_equals_the_run_without(tmp_path, monkeypatch, settings):
    alone = {key: value for key, value in settings.items() if not key.startswith("remote")}
    _, expected = run(make_config(**THREADS, checkpoint__every_updates=4, **alone))
    found = run_with_workers(tmp_path, monkeypatch, env__source="tests.envs.delayed", **settings)
    assert len(expected) == 10
    assert facts(found) == facts(expected)


def lags(rows):
    return [row["lag/max"] for row in rows]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param({"remote__publish_every": 2}, [0, 1, 2, 1, 0, 1, 2, 1, 0, 1], marks=pytest.mark.slow),
        ({"remote__publish_every": 3}, [0, 1, 2, 3, 0, 1, 2, 1, 0, 1]),
        pytest.param(
            {"remote__publish_every": 3, "checkpoint__every_updates": 0},
            [0, 1, 2, 3, 1, 2, 3, 1, 2, 3],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_rollouts_are_made_with_the_newest_multiple(tmp_path, monkeypatch, settings, expected):
    assert lags(run_with_workers(tmp_path, monkeypatch, **settings)) == expected


def test_a_run_on_drift_repeats_itself_and_resumes_bit_for_bit(tmp_path, monkeypatch):
    saved = []

    def save(snapshot):
        saved.append(dataclasses.replace(snapshot, state=jax.tree.map(jnp.copy, snapshot.state)))

    settings = {**DRIFT, "remote__max_drift": 1e-5, "checkpoint__every_updates": 8, "total_env_steps": 16 * 8 * 4}
    whole = run_with_workers(tmp_path, monkeypatch, {"save": save}, **settings)
    assert [snapshot.counters.learner_steps for snapshot in saved] == [8, 16]
    assert lags(whole)[8] == 0
    for span in (whole[:8], whole[8:]):
        assert 1 < max(lags(span)) < 7, "Raise or lower the drift, so that some updates publish and others do not."
    resumed = run_with_workers(tmp_path, monkeypatch, {"start": saved[0]}, **settings)
    assert facts(resumed) == facts(whole)[8:]


def test_with_free_determinism_workers_pull_what_has_drifted(tmp_path, monkeypatch):
    rows = run_with_workers(tmp_path, monkeypatch, **DRIFT, determinism="free")
    assert len(rows) == 10
    rows = run_with_workers(tmp_path, monkeypatch, **(DRIFT | {"remote__max_drift": 100.0}), determinism="free")
    assert lags(rows) == list(range(10))


@pytest.mark.slow
def test_with_free_determinism_the_newest_act(tmp_path, monkeypatch):
    rows = run_with_workers(tmp_path, monkeypatch, determinism="free")
    assert len(rows) == 10
    assert max(lags(rows)) <= 2


def test_an_agent_without_a_divergence_is_refused(tmp_path):
    config = remote_config(tmp_path, num_workers=0, remote__actor_workers=1, remote__publish="drift", agent="pqn")
    with pytest.raises(ConfigError, match=r"agent\.name='pqn' has none. Use remote\.publish=every"):
        assemble(config, jax.devices()[:1])


def test_each_rollout_is_granted_once_and_those_of_a_boundary_by_the_boundary():
    for lag in range(4):
        schedule = Schedule(first=3, last=20, every=5, max_lag=lag, exact=True)
        granted = {version: rollouts_of(schedule, version) for version in range(3, 21)}
        assert [n for version in granted for n in granted[version]] == list(range(3, 20))
        assert granted[5] == list(range(5, 5 + lag + 1))
        assert all(version <= n for version, rollouts in granted.items() for n in rollouts)
