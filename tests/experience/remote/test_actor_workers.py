"""A run with actor workers: which parameters make which rollout, and that only these cross the wire."""

import dataclasses

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.assembly import assemble
from podrl.config.config import ConfigError
from podrl.experience.actors import ActorError
from podrl.experience.programs import make_unroller
from podrl.experience.remote.actor_channel import ActorChannel, Task
from podrl.experience.remote.connection import EnvWorkerError
from podrl.experience.remote.messages import Head, Kind, pack_fields
from podrl.experience.remote.remote_actor import RemoteActor
from podrl.experience.remote.rollouts import RolloutCodec, SentRollout
from podrl.experience.remote.trees import to_pieces
from podrl.experience.remote.versions import granted_with
from podrl.experience.schedule import Schedule
from podrl.runtime.job.secret import FILE_VARIABLE
from tests.experience.remote.in_process import actor_workers, remote_config, write_secret
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


@pytest.mark.parametrize(
    ("key", "value"), [("publish", "drift"), ("publish_every", 2), ("max_drift", 0.5), ("reference_steps", 8)]
)
def test_what_only_actor_workers_follow_is_refused_without_them(key, value):
    with pytest.raises(ConfigError, match=rf"remote\.{key}={value} says .* there are none.*--actor_workers N"):
        assemble(make_config(**{f"remote__{key}": value}), jax.devices()[:1])


def test_each_rollout_is_granted_once_and_those_of_a_boundary_by_the_boundary():
    for lag in range(4):
        schedule = Schedule(first=3, last=20, every=5, max_lag=lag, exact=True)
        granted = {version: granted_with(schedule, version) for version in range(3, 21)}
        assert [n for version in granted for n in granted[version]] == list(range(3, 20))
        assert granted[5] == list(range(5, 5 + lag + 1))
        assert all(version <= n for version, rollouts in granted.items() for n in rollouts)


def test_workers_that_do_not_come_are_missed_in_time(tmp_path, monkeypatch):
    monkeypatch.setenv(FILE_VARIABLE, str(write_secret(tmp_path)))
    config = remote_config(tmp_path, num_workers=0, remote__actor_workers=1, remote__join_timeout_s=0.2)
    with pytest.raises(TimeoutError, match=r"0 of 1 actor workers came to .*python tools/actor_worker\.py --connect"):
        run(config)


def test_an_environment_that_raises_in_a_worker_is_named_with_it(tmp_path, monkeypatch):
    config = remote_config(
        tmp_path,
        num_workers=0,
        remote__actor_workers=1,
        env__source="tests.envs.scripted",
        env__id="scripted",
        env__options={"raise_at_step": 6},
    )
    with (
        actor_workers(tmp_path, monkeypatch, count=1),
        pytest.raises(ActorError, match=r"actor 0 on actor worker 0 \(.*\) failed: .*step 6"),
    ):
        run(config)


def test_a_worker_that_cannot_make_its_agent_is_named(tmp_path, monkeypatch):
    def make_agent(config, spec):
        raise ConfigError("no such agent here")

    monkeypatch.setattr("tests.experience.remote.in_process.make_acting_agent", make_agent)
    with (
        actor_workers(tmp_path, monkeypatch, count=1),
        pytest.raises(ConfigError, match=r"actor worker 0 \(.*\): no such agent here"),
    ):
        run(remote_config(tmp_path, num_workers=0, remote__actor_workers=1))


class Connection:
    """What an actor asks of its worker's connection."""

    name = "actor worker 0 (host, process 7)"

    def check(self):
        raise EnvWorkerError(f"{self.name} was lost: it ended")


@pytest.fixture
def actor():
    parts = assemble(make_config(), jax.devices()[:1])
    rollout = make_unroller(parts.config, parts.agent, parts.spec, parts.layout).state_shape.rollout
    codec = RolloutCodec(rollout, num_pools=1)
    indices = parts.layout.pools_of(0, 0)[:1]
    actor = RemoteActor(0, parts.topology.local_learner, timeout_s=0.1, first=4, env_indices=indices)
    return actor, ActorChannel(actor, codec, Connection(), 1, first=4), codec, rollout


def test_a_worker_sends_only_the_rollouts_that_were_granted(actor):
    actor, channel, codec, rollout = actor
    trajectory = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), rollout)
    sent = SentRollout(trajectories=(trajectory,), version=2, episodes=(), nonfinite="a text", spent_s={"env": 1.0})

    def deliver(number):
        for message in to_pieces(Kind.ROLLOUT, Kind.PART_OF_ROLLOUT, 1, number + 1, codec.encode(sent)):
            assert channel.take_credit(number + 1)
            channel.put(message)

    assert not channel.take_credit(5)
    assert [channel.grant(Task(4, actor)), channel.grant(Task(5, actor))] == [4, 5]
    assert not channel.take_credit(6)  # Rollout 5, before rollout 4.
    assert "has not sent rollout 4" in actor.doing()
    deliver(4)
    assert actor.take().version == 2
    assert actor.nonfinite.of(4) == "a text"
    assert actor.ledger.seconds()["env"] == 1.0
    with pytest.raises(TimeoutError, match=r"actor 0 on actor worker 0 \(host, process 7\) has not sent rollout 5"):
        actor.take()
    with pytest.raises(ValueError, match="STEP instead of ROLLOUT"):
        channel.put(Head(Kind.STEP, 1, 6).pack())
    with pytest.raises(ValueError, match="expected"):
        channel.put(Head(Kind.ROLLOUT, 1, 6).pack() + b"other bytes")


@pytest.mark.parametrize(
    ("message", "error", "match"),
    [
        (None, ActorError, r"actor worker 0 .* was lost: it ended"),
        (pack_fields(Head(Kind.FAILED, 1, 0), text="it burns"), ActorError, r"actor 0 on actor worker 0 .*: it burns"),
    ],
)
def test_a_worker_that_fails_is_named(actor, message, error, match):
    actor, channel, _, _ = actor
    channel.put(message)
    assert actor.is_decided()
    with pytest.raises(error, match=match):
        actor.take()
