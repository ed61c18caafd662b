import dataclasses
import json
import shutil
import subprocess

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.config.config import ConfigError, TopologyConfig
from podrl.learning.learner import Learner
from podrl.mesh import make_topology
from podrl.runs.checkpoint import Checkpointer
from podrl.runs.checkpoint_facts import read_fact
from podrl.runs.state_arrays import to_arrays
from podrl.types import Counters, Snapshot
from tests.short_runs import make_agent, make_config


def at_update(state, step):
    """The state as if it were of that update; every checkpoint says it twice."""
    return dataclasses.replace(state, step=jax.device_put(jnp.int32(step), state.step.sharding))


def snapshot(state, step):
    return Snapshot(state=at_update(state, step), counters=Counters(learner_steps=step), episodes={})


def unseal(checkpoint):
    """Makes it one from before podrl saved hashes."""
    shutil.rmtree(checkpoint / "hashes")
    counters = checkpoint / "counters/metadata"
    fact = json.loads(counters.read_text())
    del fact["seal"]
    counters.write_text(json.dumps(fact))


def learner_on(num_devices, **overrides):
    config = TopologyConfig(actor_devices_per_process=1, learner_devices_per_process=num_devices)
    agent, _ = make_agent(make_config(**overrides))
    return Learner(agent, make_topology(config, jax.devices()[:num_devices]).learner)


def plain(state):
    return jax.device_get(dataclasses.replace(state, key=jax.random.key_data(state.key)))


@pytest.mark.parametrize("num_devices", [1, 4, 8])
def test_a_state_comes_back_bit_for_bit_on_any_number_of_devices(tmp_path, num_devices):
    counters = Counters(learner_steps=7, env_steps=5 * 10**9, frames=2 * 10**10)
    episodes = {"newest": [[1.5, 7]], "count": 3}
    saved = Snapshot(
        state=at_update(learner_on(4).init(seed=9), 7), counters=counters, episodes=episodes, chain="0123456789abcdef"
    )
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        checkpointer.save(saved)
    learner = learner_on(num_devices)
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        restored = checkpointer.restore(learner.state_shape, 7)
    assert (restored.counters, restored.episodes, restored.chain) == (counters, episodes, saved.chain)
    jax.tree.map(np.testing.assert_array_equal, plain(restored.state), plain(saved.state))
    assert jax.tree.leaves(restored.state.params)[0].sharding == jax.tree.leaves(learner.state_sharding.params)[0]


def test_a_checkpoint_from_before_fingerprints_were_chained_starts_the_chain(tmp_path, caplog):
    learner = learner_on(1)
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        checkpointer.save(dataclasses.replace(snapshot(learner.init(0), 1), chain="0123456789abcdef"))
    unseal(tmp_path / "checkpoints/1")
    shutil.rmtree(tmp_path / "checkpoints/1/chain")
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        assert checkpointer.restore(learner.state_shape, 1).chain == "0" * 16
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_checkpoint_from_before_learn_was_counted_and_acting_statistics_were_kept(monkeypatch, tmp_path):
    learner = learner_on(2, network__normalize_observations=True)
    state = at_update(learner.init(seed=9), 7)
    state.extra["observations"] = jax.tree.map(lambda x: x + 1, state.extra["observations"])

    def earlier(state):
        arrays = to_arrays(state)
        del arrays["learner_step"], arrays["extra"]["acting"]
        return arrays

    with monkeypatch.context() as patch, Checkpointer(tmp_path, keep=1) as checkpointer:
        patch.setattr("podrl.runs.checkpoint.to_arrays", earlier)
        checkpointer.save(Snapshot(state=state, counters=Counters(learner_steps=7), episodes={}))
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        restored = checkpointer.restore(learner_on(4, network__normalize_observations=True).state_shape, 7).state
    assert int(restored.learner_step) == 7
    for name in ("acting", "observations"):
        jax.tree.map(np.testing.assert_array_equal, restored.extra[name], state.extra["observations"])


def test_only_the_newest_are_kept(tmp_path):
    state = learner_on(1).init(0)
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        for step in (3, 6, 9):
            checkpointer.save(snapshot(state, step))
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [6, 9]


def test_a_stop_between_boundaries_does_not_push_a_boundary_out(tmp_path):
    state = learner_on(1).init(0)
    with Checkpointer(tmp_path, keep=1, every=4) as checkpointer:
        for step, expected in ((3, [3]), (4, [4]), (6, [4, 6]), (7, [4, 6, 7]), (8, [8]), (10, [8, 10])):
            checkpointer.save(snapshot(state, step))
            checkpointer.wait()
            assert checkpointer.steps() == expected


@pytest.fixture
def busy(tmp_path):
    """Makes a folder that nobody can delete, by something that is mounted in it; wants the right to mount."""
    mounted = []

    def make(folder):
        if subprocess.run(["mount", "-t", "tmpfs", "none", str(folder)], capture_output=True).returncode:
            pytest.skip("no right to mount")
        mounted.append(folder)

    yield make
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_an_old_checkpoint_that_cannot_be_deleted_is_named_and_costs_nothing_else(tmp_path, busy, caplog):
    learner = learner_on(1)
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        checkpointer.save(snapshot(learner.init(0), 3))
        checkpointer.wait()
        busy(tmp_path / "checkpoints/3/state")
        for step, expected in ((6, [3, 6]), (9, [3, 9])):
            checkpointer.save(snapshot(learner.init(step), step))
            checkpointer.wait()
            assert checkpointer.steps() == expected
    said = f"no longer needed, could not be deleted (Device or resource busy). Delete {tmp_path}"
    assert [said in record.getMessage() for record in caplog.records if "needed" in record.getMessage()] == [True]
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        restored = checkpointer.restore_first(learner.state_shape, [9])
    jax.tree.map(np.testing.assert_array_equal, plain(restored.state), plain(at_update(learner.init(9), 9)))


def with_return(state, step, episode_return):
    record = {
        "newest": [] if episode_return is None else [[episode_return - 1, 5], [episode_return + 1, 9]],
        "count": 2,
    }
    return Snapshot(state=at_update(state, step), counters=Counters(learner_steps=step), episodes=record)


def test_some_are_kept_for_good_and_some_for_their_return_also_by_a_run_that_goes_on(tmp_path):
    state, rules = learner_on(1).init(0), {"keep": 1, "every": 2, "keep_every": 8, "keep_best": 1}
    with Checkpointer(tmp_path, **rules) as checkpointer:
        for step, episode_return in ((2, None), (4, 7.0), (6, 3.0), (8, 2.0), (10, 1.0)):
            checkpointer.save(with_return(state, step, episode_return))
    for step, episode_return, expected in ((12, 5.0, [4, 8, 12]), (14, None, [4, 8, 14]), (16, 9.0, [8, 16])):
        with Checkpointer(tmp_path, **rules) as checkpointer:
            checkpointer.save(with_return(state, step, episode_return))
            checkpointer.wait()
            assert checkpointer.steps() == expected


def test_a_forgotten_or_damaged_checkpoint_is_no_longer_the_best(tmp_path):
    learner, rules = learner_on(1), {"keep": 1, "every": 2, "keep_best": 1}
    with Checkpointer(tmp_path, **rules) as checkpointer:
        for step, episode_return in ((2, 1.0), (4, 9.0)):
            checkpointer.save(with_return(learner.init(0), step, episode_return))
        checkpointer.wait()
        assert checkpointer.steps() == [4]
        checkpointer.save(with_return(learner.init(0), 6, 2.0))
        checkpointer.forget_after(4)
        checkpointer.save(with_return(learner.init(0), 6, 3.0))
    (tmp_path / "checkpoints/4/episodes/metadata").write_text("{")
    with Checkpointer(tmp_path, **rules) as checkpointer:
        assert checkpointer.restore_first(learner.state_shape, [4, 6]).counters.learner_steps == 6
        checkpointer.save(with_return(learner.init(0), 8, 1.0))
        checkpointer.wait()
        assert checkpointer.steps() == [6, 8]


def test_it_says_what_it_is_of(tmp_path):
    config, manifest = {"agent": {"name": "impala"}}, {"commit": "abc"}
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        checkpointer.save(snapshot(learner_on(1).init(0), 1), config=config, manifest=manifest)
        checkpointer.save(snapshot(learner_on(1).init(0), 2))  # As podrl saved before it had these.
    assert [read_fact(tmp_path, 1, name) for name in ("config", "manifest")] == [config, manifest]
    assert [read_fact(tmp_path, 2, name) for name in ("config", "manifest")] == [None, None]
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        assert checkpointer.restore(learner_on(1).state_shape, 2).counters.learner_steps == 2


def test_the_saved_state_may_be_donated_at_once(tmp_path):
    state = learner_on(1).init(0)
    want = plain(state)
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        checkpointer.save(snapshot(state, 1))
        jax.tree.map(lambda x: x.delete(), state.params)
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        restored = checkpointer.restore(learner_on(1).state_shape, 1)
    jax.tree.map(np.testing.assert_array_equal, plain(restored.state).params, want.params)


def test_a_damaged_checkpoint_is_passed_over_by_name(tmp_path, caplog):
    learner = learner_on(1)
    with Checkpointer(tmp_path, keep=3) as checkpointer:
        for step in (1, 2):
            checkpointer.save(snapshot(learner.init(step), step))
    for path in (tmp_path / "checkpoints/2/state").rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.write_bytes(path.read_bytes()[:500])
    with Checkpointer(tmp_path, keep=3) as checkpointer:
        restored = checkpointer.restore_first(learner.state_shape, [2, 1])
        assert checkpointer.steps() == [1]
        checkpointer.save(snapshot(learner.init(2), 2))
    assert restored.counters.learner_steps == 1
    assert "Checkpoint 2 is damaged and was put aside as damaged-2: " in caplog.text
    assert (tmp_path / "checkpoints/damaged-2").is_dir()


@pytest.mark.parametrize(
    ("overrides", "leaf"),
    [
        ({"network__hidden_sizes": (32,)}, r"encoder/Dense_0/bias is float32\[16\], expected float32\[32\]"),
        ({"network__hidden_sizes": (16, 16)}, r"encoder/Dense_1/bias is not there, expected float32\[16\]"),
        (
            {"agent__optimizer__name": "adam"},
            r"opt_state/\S+ is not there|it has opt_state/\S+, which this run has not",
        ),
    ],
)
def test_a_checkpoint_of_another_network_or_algorithm_is_refused(tmp_path, overrides, leaf):
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        checkpointer.save(snapshot(learner_on(1).init(0), 1))
    with Checkpointer(tmp_path, keep=1) as checkpointer, pytest.raises(ConfigError, match=leaf):
        checkpointer.restore(learner_on(1, **overrides).state_shape, 1)


def test_later_checkpoints_are_forgotten(tmp_path):
    with Checkpointer(tmp_path, keep=3) as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(snapshot(learner_on(1).init(0), step))
        checkpointer.forget_after(1)
        assert checkpointer.steps() == [1]
        checkpointer.save(snapshot(learner_on(1).init(0), 2))
        assert checkpointer.steps() == [1, 2]
