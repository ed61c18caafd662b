"""The replay of a checkpoint: exact on any number of devices, in the newest checkpoint only, and never half there."""

import dataclasses
import functools
import json
from pathlib import Path
import shutil
import time
import types

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl import train
from podrl.config.config import ConfigError
from podrl.experience.layout import Layout
from podrl.learning.learner import Learner
from podrl.learning.replay import make_replay
from podrl.runs.checkpoint import Checkpointer
from podrl.runs.checkpoint_arrays import make_records, read_params, restore_actor, whole_steps
from podrl.runs.checkpoint_errors import DamagedError
from podrl.runs.checkpoint_facts import read_facts
from podrl.runs.checkpoint_replay import ReplayItem, ReplayRule, has_replay, replay_folder
from podrl.runs.checkpointing import would_resume_at
from podrl.runs.resume import settle_starts
from podrl.runs.state_arrays import to_arrays
from podrl.types import Counters, Snapshot
from tests.learning.test_learner import take_environments
from tests.processes import read_rows
from tests.replay.test_batches import RING, mesh_of, place
from tests.short_runs import facts, make_agent, make_config, random_trajectory, run

pytestmark = pytest.mark.usefixtures("compiled_once")

LAYOUT = Layout(num_actors=1, pools_per_actor=2, envs_per_pool=8, num_processes=1)
REFILLS = "not bit for bit: the replay is refilled"


@functools.cache
def learner_on(num_devices, batches=3):
    config = make_config(**RING | {"replay__batches": batches}, actors__num_envs=16, actors__unroll_length=5)
    agent, spec = make_agent(config)
    mesh = mesh_of(num_devices)
    return Learner(agent, mesh, replay=make_replay(config, agent, spec, mesh)), agent, spec


@functools.cache
def trained(num_devices, num_updates=4):
    """States after each update, as copies, with rollouts of two pools."""
    learner, agent, spec = learner_on(num_devices)
    state, found = learner.init(seed=3), []
    for update in range(num_updates):
        batch = random_trajectory(agent, spec, length=5, num_envs=16, seed=update)
        pools = [take_environments(batch, part, 2) for part in range(2)]
        state, _ = learner.update(state, [place(mesh_of(num_devices), pool) for pool in pools])
        found.append(jax.tree.map(lambda x: x.copy(), state))
    return found


def rule_on(num_devices, **fields):
    return ReplayRule(env_index=LAYOUT.joined_indices(num_devices), **fields)


def save(folder, num_devices, *updates, **rules):
    with Checkpointer(folder, **{"keep": 9, "replay": rule_on(num_devices)} | rules) as checkpointer:
        for update in updates:
            episodes = {"newest": [[-float(update), 5]], "count": 1}
            counters = Counters(learner_steps=update)
            checkpointer.save(Snapshot(state=trained(num_devices)[update - 1], counters=counters, episodes=episodes))
            checkpointer.wait()


def restore(folder, num_devices, *updates):
    with Checkpointer(folder, keep=9, replay=rule_on(num_devices)) as checkpointer:
        return checkpointer.restore_first(learner_on(num_devices)[0].state_shape, updates).state


def by_environment(ring):
    """The rows of each environment, by its index, and the counts."""
    batches = jax.device_get(ring.batches)
    order = np.argsort(batches.env_index)
    counts = jax.device_get(dataclasses.replace(ring.counts, key=jax.random.key_data(ring.counts.key)))
    return jax.tree.map(lambda x: x[order], batches), counts


def with_replay(folder):
    return [step for step in whole_steps(folder) if has_replay(folder, step)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints of updates 3 and 4 from two devices; the replay is in the newer one."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    save(folder, 2, 3, 4)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "run"))


@pytest.mark.parametrize("num_devices", [1, 2, 4])
def test_every_environment_has_its_rows_on_any_number_of_devices(saved, num_devices):
    found, expected = restore(saved, num_devices, 4), trained(2)[3]
    order = LAYOUT.joined_indices(num_devices)
    np.testing.assert_array_equal(found.replay.batches.env_index, order)
    jax.tree.map(np.testing.assert_array_equal, by_environment(found.replay), by_environment(expected.replay))
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
    learner = learner_on(num_devices)[0]
    assert jax.tree.map(lambda x: x.sharding, found.replay) == learner.state_sharding.replay


class TestRetention:
    def test_only_the_newest_has_a_replay_whatever_else_is_kept(self, tmp_path):
        rules = {"keep": 1, "every": 1, "keep_every": 2, "keep_best": 1}
        for update, expected in ((1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 4])):
            save(tmp_path, 1, update, **rules)
            assert whole_steps(tmp_path) == expected
            assert with_replay(tmp_path) == [update]
            assert not [step for step in expected[:-1] if replay_folder(tmp_path, step).exists()]

    def test_what_a_kill_left_undeleted_is_deleted_after_the_next_save(self, copy, tmp_path):
        save(tmp_path / "other", 2, 3)
        shutil.copytree(replay_folder(tmp_path / "other", 3), replay_folder(copy, 3))
        assert with_replay(copy) == [3, 4]
        restore(copy, 2, 4)
        assert with_replay(copy) == [3, 4]
        shutil.rmtree(copy / "checkpoints/4")
        save(copy, 2, 4)
        assert with_replay(copy) == [4]

    def test_a_run_that_is_stopped_between_boundaries_saves_none_but_where_it_would_resume(self, tmp_path):
        config = make_config(checkpoint__every_updates=3, total_env_steps=1000)
        rule = rule_on(1, is_next=functools.partial(would_resume_at, config))
        for update, expected in ((1, [1]), (2, [2]), (3, [3]), (4, [3])):
            save(tmp_path, 1, update, every=3, replay=rule)
            assert with_replay(tmp_path) == expected

    @pytest.mark.parametrize(
        ("overrides", "step", "env_steps", "expected"),
        [
            ({}, 4, 128, False),
            ({}, 4, 1000, False),  # It has ended there; extended it resumes from 3.
            ({"determinism": "free"}, 4, 128, True),
            ({"checkpoint__every_updates": 2}, 4, 128, True),
            ({"env__source": "gymnax", "topology__placement": "anakin"}, 4, 128, True),
        ],
    )
    def test_which_checkpoint_a_run_would_resume_from(self, overrides, step, env_steps, expected):
        values = {"checkpoint__every_updates": 3, "total_env_steps": 1000, **overrides}
        config = make_config("CartPole-v1", **values)
        counters = Counters(learner_steps=step, env_steps=env_steps, frames=env_steps)
        assert would_resume_at(config, counters, [1, 3]) is expected

    def test_one_that_is_switched_off_deletes_those_that_are_there(self, copy):
        shutil.rmtree(copy / "checkpoints/3")
        shutil.move(copy / "checkpoints/4", copy / "checkpoints/2")
        save(copy, 2, 3, replay=rule_on(2, is_saved=False))
        assert whole_steps(copy) == [2, 3]
        assert with_replay(copy) == []

    def test_one_that_cannot_be_deleted_is_named_once(self, copy, caplog, monkeypatch):
        def refuse(path):
            raise PermissionError(13, "Permission denied", str(path))

        shutil.rmtree(copy / "checkpoints/3")
        shutil.move(copy / "checkpoints/4", copy / "checkpoints/2")
        monkeypatch.setattr(type(replay_folder(copy, 2)), "rmtree", refuse)
        with Checkpointer(copy, keep=9, replay=rule_on(2)) as checkpointer:
            for update in (3, 4):
                counters = Counters(learner_steps=update)
                checkpointer.save(Snapshot(state=trained(2)[update - 1], counters=counters, episodes={}))
        said = [record.getMessage() for record in caplog.records if "no longer needed" in record.getMessage()]
        assert [text.split(",")[0] for text in said] == ["The replay of checkpoint 2", "The replay of checkpoint 3"]
        assert f"(Permission denied). Delete {replay_folder(copy, 2)} by hand." in said[0]
        assert with_replay(copy) == [4]  # What is left of the others does not count.


class TestDamage:
    @pytest.mark.parametrize("how", ["flipped", "lost", "foreign"])
    def test_one_with_a_damaged_replay_is_set_aside_and_the_one_before_refills(self, copy, caplog, how):
        stored = Path(replay_folder(copy, 4)) / "batches/reward"
        (chunk, *_) = [path for path in stored.rglob("*") if path.is_file() and path.name != "zarr.json"]
        if how == "flipped":
            content = bytearray(chunk.read_bytes())
            content[5] ^= 1
            chunk.write_bytes(content)
        elif how == "lost":
            chunk.unlink()
        else:
            (stored / "zarr.json").write_text("{")
        found = restore(copy, 2, 4, 3)
        assert int(found.step) == 3
        assert jax.tree.leaves(found.replay) == []
        assert "Checkpoint 4 is damaged and was put aside as damaged-4" in caplog.text
        assert "put aside as damaged-4, without its replay: " in caplog.text
        assert (copy / "checkpoints/damaged-4/state").is_dir()
        assert not (copy / "checkpoints/damaged-4/replay").exists()

    def test_a_replay_that_cannot_be_deleted_with_it_is_named(self, copy, caplog, monkeypatch):
        def refuse(path):
            raise PermissionError(13, "Permission denied", str(path))

        (replay_folder(copy, 4) / "counts/left/zarr.json").unlink()
        monkeypatch.setattr(type(replay_folder(copy, 4)), "rmtree", refuse)
        assert int(restore(copy, 2, 4, 3).step) == 3
        said = "put aside as damaged-4, with its replay, which could not be deleted (Permission denied): "
        assert said in caplog.text

    def test_what_was_put_aside_for_its_replay_is_whole_without(self, copy):
        (replay_folder(copy, 4) / "counts/left/zarr.json").unlink()
        restore(copy, 2, 4, 3)
        shutil.move(copy / "checkpoints/damaged-4", copy / "checkpoints/4")
        assert int(restore(copy, 2, 4).step) == 4

    def test_if_there_is_no_other_it_says_that_the_rest_is_whole(self, copy):
        (replay_folder(copy, 4) / "counts/left/zarr.json").unlink()
        shutil.rmtree(copy / "checkpoints/3")
        with pytest.raises(DamagedError, match=r"Checkpoint 4 in .* is damaged: "):
            restore(copy, 2, 4)
        shutil.rmtree(replay_folder(copy, 4))
        assert jax.tree.leaves(restore(copy, 2, 4).replay) == []

    def test_a_folder_without_its_mark_is_no_replay(self, copy):
        """It is deleted first, so that a kill never leaves half of a replay."""
        (replay_folder(copy, 4) / "zarr.json").unlink()
        assert jax.tree.leaves(restore(copy, 2, 4).replay) == []

    def test_another_size_is_refused_with_what_to_do(self, copy):
        shape = learner_on(2, batches=5)[0].state_shape
        said = r"action is int32\[16, 3, 5\], expected int32\[16, 5, 5\].*: then the replay is refilled"
        with Checkpointer(copy, keep=9, replay=rule_on(2)) as checkpointer:
            with pytest.raises(ConfigError, match=said):
                checkpointer.restore_first(shape, [4])
            assert jax.tree.leaves(checkpointer.restore_first(shape, [3]).state.replay) == []


class TestEarlierForm:
    """Checkpoints in which the ring is a part of the state."""

    @pytest.fixture
    def earlier(self, tmp_path, monkeypatch):
        made = []

        def take(state):
            made.append(to_arrays(state))
            return made[-1]

        def put_back(rule, ring, counters, steps):
            made[-1]["replay"] = ring
            return ReplayItem()

        with monkeypatch.context() as patch:
            patch.setattr("podrl.runs.checkpoint.to_arrays", take)
            patch.setattr(ReplayRule, "choose", put_back)
            save(tmp_path, 1, 4)
        assert read_facts(tmp_path, 4).replay is None
        assert "replay/counts/left" in read_facts(tmp_path, 4).arrays
        return tmp_path

    def test_it_is_restored_in_the_order_that_it_was_saved_in(self, earlier):
        found = restore(earlier, 1, 4)
        jax.tree.map(np.testing.assert_array_equal, by_environment(found.replay), by_environment(trained(1)[3].replay))

    def test_in_another_order_it_is_refilled(self, earlier):
        assert list(LAYOUT.joined_indices(2)) != list(LAYOUT.joined_indices(1))
        found = restore(earlier, 2, 4)
        assert jax.tree.leaves(found.replay) == []
        jax.tree.map(np.testing.assert_array_equal, found.params, trained(1)[3].params)


def test_acting_and_exporting_need_no_replay(copy):
    shutil.rmtree(replay_folder(copy, 4) / "batches")
    _, agent, _ = learner_on(1)
    shape = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0])),
        jax.eval_shape(agent.init, jax.random.key(0)),
    )
    state, counters = restore_actor(copy, shape, 4)
    assert counters.learner_steps == 4
    jax.tree.map(np.testing.assert_array_equal, state.params, trained(2)[3].params)
    assert read_params(copy, 4).keys() == _params_of(trained(2)[3])


def _params_of(state):
    return {path.removeprefix("params/") for path in make_records({"params": state.params})}


OVERRIDES = RING | {  # Twelve updates, with a checkpoint every four.
    **{"total_env_steps": 12 * 8 * 4, "checkpoint__every_updates": 4, "checkpoint__keep": 99},
    **{"log__tensorboard": False, "topology__actor_devices_per_process": 1},
    "topology__learner_devices_per_process": 1,
}


def train_in(folder, until=99, **overrides):
    folder.mkdir(exist_ok=True)

    def should_stop():
        path = folder / "metrics.jsonl"
        return path.exists() and len(path.read_text().splitlines()) >= until - 1

    return train.train(make_config(**OVERRIDES | overrides), workdir=str(folder), stop_code=should_stop)


STEPS = {
    **{"agent": "r2d2", "agent__starts": "rows", "agent__burn_in": 0, "agent__length": 1},
    **{"actors__num_envs": 8, "actors__unroll_length": 4, "total_env_steps": 4 * 8 * 4},
    **{"replay__capacity": 320, "replay__batch": 16, "replay__groups": 2, "replay__ratio": 0.5},
    **{"checkpoint__every_updates": 4, "log__tensorboard": False},
    **{"topology__actor_devices_per_process": 1, "topology__learner_devices_per_process": 1},
}


@pytest.fixture(scope="module")
def steps_of_a_ring(tmp_path_factory):
    """The folder of a run with a ring of single steps, with a checkpoint of update 4."""
    folder = tmp_path_factory.mktemp("steps") / "run"
    train.train(make_config(**STEPS), workdir=str(folder))
    return folder


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight") / "run"
    train_in(folder)
    return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Stopped between updates 4 and 8."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    assert 4 < train_in(folder, until=6).counters.learner_steps < 8
    return folder


class TestRuns:
    """Whole runs of IMPACT."""

    def test_a_row_has_the_fingerprint_of_what_was_drawn(self, straight):
        hashes = [row["fingerprint/replay"] for row in read_rows(straight)]
        assert len(set(hashes)) == 12
        assert all(len(text) == 16 for text in hashes)

    def test_a_resume_is_exact(self, stopped, straight, tmp_path, caplog):
        run = Path(shutil.copytree(stopped, tmp_path / "run"))
        assert with_replay(run) == [4]
        assert train_in(run).finished
        assert facts(read_rows(run)) == facts(read_rows(straight))
        assert with_replay(run) == [12]
        assert REFILLS not in caplog.text

    def test_without_its_replay_a_run_refills_and_says_so(self, stopped, straight, tmp_path, caplog):
        run = Path(shutil.copytree(stopped, tmp_path / "run"))
        shutil.rmtree(replay_folder(run, 4))
        assert train_in(run).finished
        assert caplog.text.count(REFILLS) == 1
        sizes = [row["replay/size"] for row in read_rows(run)]
        assert sizes == [1, 2, 3, 3, 1, 2, 3, 3, 3, 3, 3, 3]
        rows, expected = facts(read_rows(run)), facts(read_rows(straight))
        assert rows[:4] == expected[:4]
        assert rows[4]["fingerprint/batch"] == expected[4]["fingerprint/batch"]
        assert rows[4]["fingerprint/replay"] != expected[4]["fingerprint/replay"]

    def test_a_run_that_saves_none_refills_too(self, tmp_path, caplog):
        run = tmp_path / "run"
        train_in(run, until=6, checkpoint__replay=False)
        assert with_replay(run) == []
        assert train_in(run, checkpoint__replay=False).finished
        assert f"{REFILLS}, as its checkpoint has none with checkpoint.replay=False." in caplog.text
        assert with_replay(run) == []

    @pytest.mark.parametrize(
        ("overrides", "longer_s"),
        [
            ({}, 100.0),
            ({"checkpoint__replay": False}, 0.0),
            ({"checkpoint__every_updates": 0}, 0.0),
            ({"replay__batches": 1, "replay__uses": 1}, 0.0),
        ],
    )
    def test_actors_wait_longer_where_the_learner_may_save_a_ring(self, overrides, longer_s):
        config = make_config(**OVERRIDES | {"watchdog_s": 100.0, "actors__timeout_s": 5.0} | overrides)
        assert config.patience_s == 5.0 + longer_s

    @pytest.mark.slow
    def test_a_save_may_take_longer_than_any_update(self):
        def save(snapshot):
            if snapshot.counters.learner_steps == 4:
                time.sleep(4.0)

        outcome, _ = run(make_config(**OVERRIDES, actors__timeout_s=2.0), save=save)
        assert outcome.finished

    def test_a_finished_run_refills_nothing(self, straight, tmp_path, caplog):
        run = Path(shutil.copytree(straight, tmp_path / "run"))
        shutil.rmtree(replay_folder(run, 12))
        assert train_in(run).finished
        assert REFILLS not in caplog.text


@pytest.mark.parametrize(
    ("lacking", "said"), [((6, 7), "the replay is refilled"), ((7,), "the replay of seed 7 is refilled"), ((), "")]
)
def test_a_run_of_several_seeds_says_once_where_it_resumes_and_which_replays_are_refilled(lacking, said, caplog):
    caplog.set_level("INFO", logger="absl")
    configs = [make_config(**OVERRIDES, seed=seed) for seed in (6, 7)]
    checkpointer = types.SimpleNamespace(steps=lambda: [4, 8], forget_after=lambda done, among: None)
    whole, bare = types.SimpleNamespace(replay=np.zeros(1)), types.SimpleNamespace(replay=())
    states = [bare if config.seed in lacking else whole for config in configs]
    starts = [Snapshot(state=state, counters=Counters(learner_steps=4), episodes={}) for state in states]
    settle_starts(configs, [checkpointer, checkpointer], whole, starts, lambda text: [text])
    assert caplog.text.count("Resumes the run in this folder after update 4; repeats 4 that were done after it.") == 1
    assert caplog.text.count("not bit for bit") == bool(said)
    assert said in caplog.text


def test_facts_seal_the_records_of_the_replay(copy):
    path = copy / "checkpoints/4/hashes/metadata"
    hashes = json.loads(path.read_text())
    hashes["replay"]["counts/left"][1] = 16 * "0"
    path.write_text(json.dumps(hashes))
    with pytest.raises(DamagedError, match="its hashes are not those that were saved"):
        restore(copy, 2, 4)


def test_what_the_learner_saved_may_be_donated_at_once(tmp_path):
    state = jax.tree.map(lambda x: x.copy(), trained(2)[3])
    want = by_environment(state.replay)
    with Checkpointer(tmp_path, keep=1, replay=rule_on(2)) as checkpointer:
        checkpointer.save(Snapshot(state=state, counters=Counters(learner_steps=4), episodes={}))
        jax.jit(lambda ring: jax.tree.map(jnp.zeros_like, ring.batches), donate_argnums=0)(state.replay)
        jax.tree.map(lambda x: x.delete(), state.replay.batches)
    jax.tree.map(np.testing.assert_array_equal, by_environment(restore(tmp_path, 2, 4).replay), want)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            {"actors__unroll_length": 8, "replay__ratio": 0.25},
            r"made with actors\.unroll_length=4, and this run has 8\. Keep it, or delete .*/checkpoints/4/replay",
        ),
        ({"replay__priority_exponent": 0.5}, r"made with replay\.priority_exponent=0\.9, and this run has 0\.5"),
    ],
)
def test_rows_that_would_mean_something_else_are_refused(steps_of_a_ring, tmp_path, overrides, said):
    """Their shapes are the same."""
    folder = tmp_path / "run"
    shutil.copytree(steps_of_a_ring, folder)
    config = make_config(**STEPS | {"total_env_steps": 8 * 8 * 4} | overrides)
    with pytest.raises(ConfigError, match=said):
        train.train(config, workdir=str(folder), accept_changes=True)
    assert whole_steps(folder) == [4]
    shutil.rmtree(folder / "checkpoints/4/replay")
    assert train.train(config, workdir=str(folder), accept_changes=True).finished
