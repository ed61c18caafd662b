"""A run with `record.path` writes what it learns from, learns the same, and has each episode once after a crash."""

import shutil
import signal
import threading
import time

import jax
import numpy as np
import pytest

from podrl import train
from podrl.commands import inspect_data
from podrl.config.config import ConfigError
from podrl.data.data_set import open_data
from podrl.data.manifest import DataSpec, read_manifest
from podrl.data.run_recorder import RecordError, RunRecorder
from podrl.data.writer import DataWriter
from tests import short_runs
from tests.data.episodes import VECTOR, make_episode
from tests.data.test_cutting import Player
from tests.faults.commands import CATCH
from tests.faults.sameness import assert_same
from tests.processes import checkpoints, finish_job, job, launch, num_rows, read_rows, signalled

ONE = {"topology__actor_devices_per_process": 1, "topology__learner_devices_per_process": 1}
SHORT = {**ONE, "checkpoint__every_updates": 5, "log__tensorboard": False}


def trained(folder, options=None, *, resumes=False, **overrides):
    """Runs 10 updates of 8 environments, 4 steps each, that are opened anew after the fifth."""
    config = short_runs.scripted_config(options, **{**SHORT, **overrides})
    with short_runs.shared_programs():
        train.train(config, workdir=str(folder), start_anew=False, accept_changes=resumes)
    return folder


def episodes_of(folder):
    """The episodes of a data set: rows by (seed, number)."""
    data = open_data(folder)
    found = {}
    for episode in range(data.num_episodes):
        ((_, rows),) = data.read(np.array([episode]))
        key = (int(data.facts.seed[episode]), int(data.facts.number[episode]))
        assert key not in found
        found[key] = {name: column.tobytes() for name, column in rows.items()}
    return found


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    trained(folder / "run", record__path=str(folder / "set"))
    return folder


def test_what_is_learned_is_the_same_to_the_bit(straight, tmp_path):
    trained(tmp_path / "run")
    recorded, plain = (short_runs.facts(read_rows(folder / "run")) for folder in (straight, tmp_path))
    assert recorded == plain
    assert all("fingerprint" in row for row in plain)


def test_the_set_has_every_whole_episode_as_it_was_played(straight):
    """Plays 5 updates of 4 steps: 20 rows from where environments are opened, and the observation behind them."""
    data = open_data(straight / "set")
    wanted = []
    for start in (0, 1):  # Environments play lengths 3, 5, 3 or 5, 3, 5; a reset takes a step.
        lengths, row = [], 0
        while row + (length := (3, 5)[(start + len(lengths)) % 2]) <= 20:
            lengths.append(length)
            row += length + 1
        wanted += lengths
    assert sorted(data.facts.length) == sorted(wanted * 4 * 2)
    assert data.facts.is_whole.all()
    np.testing.assert_array_equal(data.facts.episode_return, data.facts.length * (data.facts.length + 1) / 2)
    versions = set()
    for _, rows in data.read(np.arange(data.num_episodes)):
        assert np.isfinite(rows["behaviour/policy"]).all()
        versions |= set(rows["params_version"].tolist())
    assert versions == {0, 1, 2, 3, 5, 6, 7, 8}  # The lag is one, except where environments are opened.
    (recording,) = data.recordings
    assert recording.is_complete
    assert recording.facts == {"policy": "training", "run": "run", "agent": "impala", "seed": 1}
    assert len({*data.facts.seed}) == 16


def test_a_shard_names_the_update_up_to_which_it_goes(straight):
    assert [shard.update for shard in read_manifest(straight / "set").shards] == [5, 10]


def test_only_so_many_steps_are_recorded(straight, tmp_path):
    trained(tmp_path / "run", record__path=str(tmp_path / "set"), record__steps=3 * 32)
    found, whole = episodes_of(tmp_path / "set"), episodes_of(straight / "set")
    assert 0 < len(found) < len(whole)
    assert found.items() <= whole.items()
    assert open_data(tmp_path / "set").recordings[0].is_complete


def test_a_run_that_resumes_drops_what_it_makes_again(straight, tmp_path):
    """As if it had been killed before its last checkpoint was whole, and behind a later shard."""
    shutil.copytree(straight, tmp_path, dirs_exist_ok=True)
    assert checkpoints(tmp_path / "run") == [5, 10]
    shutil.rmtree(tmp_path / "run/checkpoints/10")
    trained(tmp_path / "run", record__path=str(tmp_path / "set"))
    assert episodes_of(tmp_path / "set") == episodes_of(straight / "set")
    assert [shard.update for shard in read_manifest(tmp_path / "set").shards] == [5, 10]


def test_a_run_that_begins_anew_drops_all_and_another_of_its_name_is_refused(straight, tmp_path):
    shutil.copytree(straight, tmp_path, dirs_exist_ok=True)
    with pytest.raises(ConfigError, match=r"record\.path=.*/set has episodes of another run 'run'\. Name another"):
        trained(tmp_path / "other/run", record__path=str(tmp_path / "set"))
    assert not (tmp_path / "other").exists()  # It was refused before the run had a folder.
    config = short_runs.scripted_config(**SHORT, record__path=str(tmp_path / "set"))
    train.train(config, workdir=str(tmp_path / "run"), start_anew=True)
    assert episodes_of(tmp_path / "set") == episodes_of(straight / "set")


def test_a_place_that_cannot_be_recorded_into_leaves_no_folder_of_a_run(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/text").write_text("text")
    for place, said in (
        ("notes", "is no data set, and not empty"),
        ("notes/text/set", "cannot be written: .*text is no"),
    ):
        with pytest.raises(ConfigError, match=said):
            trained(tmp_path / "run", record__path=str(tmp_path / place))
        assert not (tmp_path / "run").exists()
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["text"]


def test_another_runs_episodes_stay_beside(straight, tmp_path):
    shutil.copytree(straight / "set", tmp_path / "set")
    trained(tmp_path / "second", record__path=str(tmp_path / "set"), seed=2)
    data = open_data(tmp_path / "set")
    assert [each.facts["run"] for each in data.recordings] == ["run", "second"]
    assert len(episodes_of(tmp_path / "set")) == 2 * len(episodes_of(straight / "set"))


def test_no_loop_without_rollouts_records(tmp_path):
    with pytest.raises(ConfigError, match=r"record\.path=x is for topology\.placement=sebulba; with 'anakin'"):
        short_runs.anakin_config(record__path="x")
    with pytest.raises(ConfigError, match=r"record\.path=gs://x must be the path of a folder on this machine"):
        short_runs.make_config(record__path="gs://x")


def test_where_to_record_is_no_other_run(straight, tmp_path):
    shutil.copytree(straight / "run", tmp_path / "run")
    trained(tmp_path / "run", record__path=str(tmp_path / "elsewhere"))
    assert not read_manifest(tmp_path / "elsewhere").shards  # The run had ended.


class TestRecorder:
    def writer(self, folder):
        struct = {"a": VECTOR.observation}
        spec = DataSpec(env=type(VECTOR)(id="x", observation=struct, actions=type(VECTOR.actions)(1)))
        writer = DataWriter(folder / "set", spec)
        writer.resume({"policy": "training"}, 0)
        return writer

    def rollouts(self, num):
        player = Player(0)
        return [player.rollout(6).replace(behaviour=()) for _ in range(num)]

    def on_devices(self, trajectory):
        return jax.tree.map(jax.numpy.asarray, trajectory)

    def test_a_disk_that_fails_is_named_to_the_learner(self, tmp_path, monkeypatch):
        writer, error = self.writer(tmp_path), OSError(28, "No space left on device")
        monkeypatch.setattr(writer, "add", lambda *arguments: (_ for _ in ()).throw(error))
        recorder = RunRecorder(writer)
        for update, rollout in enumerate(self.rollouts(3)):
            try:
                recorder.add(update + 1, [self.on_devices(rollout)])
            except RecordError:
                break
        with pytest.raises(RecordError, match=r"record\.path=.*/set cannot be written: .*No space left on device"):
            recorder.commit()
        recorder.close()

    def test_the_learner_waits_for_a_slow_disk_but_not_for_ever(self, tmp_path, monkeypatch):
        writer, event = self.writer(tmp_path), threading.Event()
        monkeypatch.setattr(writer, "add", lambda *arguments: event.wait(60))
        recorder = RunRecorder(writer, ahead=2, timeout_s=0.3)
        rollouts = [self.on_devices(rollout) for rollout in self.rollouts(5)]
        for update, rollout in enumerate(rollouts[:3]):  # One is being written, and two wait.
            recorder.add(update + 1, [rollout])
        began_s = time.monotonic()
        with pytest.raises(TimeoutError, match=r"waited 0 s for its rollouts .* is at update 1, .*'write'"):
            recorder.add(4, rollouts[3:4])
        assert time.monotonic() - began_s < 30
        event.set()
        recorder.close()
        assert "recorder" not in [thread.name for thread in threading.enumerate()]

    def test_an_episode_with_a_number_that_is_not_finite_is_left_out(self, tmp_path, caplog):
        recorder, rollouts = RunRecorder(self.writer(tmp_path)), self.rollouts(8)
        reward = rollouts[0].reward.copy()
        reward[0, 0] = np.nan
        rollouts[0] = rollouts[0].replace(reward=reward)
        for update, rollout in enumerate(rollouts):
            recorder.add(update + 1, [self.on_devices(rollout)])
        recorder.commit(ends=True)
        recorder.close()
        assert np.isfinite(open_data(tmp_path / "set").facts.episode_return).all()
        assert sum("Left out of" in record.getMessage() for record in caplog.records) == 1


def test_a_writer_keeps_shards_of_others_when_a_run_resumes(tmp_path):
    def add(writer, number, update=-1):
        writer.add(make_episode(number, 3), update)
        writer.commit()

    with DataWriter(tmp_path, DataSpec(env=VECTOR)) as writer:
        writer.resume({"policy": "training"}, 0)
        add(writer, 0, 4)
        add(writer, 1, 8)
        writer.end()
        writer.begin({"policy": "random"})
        add(writer, 2)
        writer.end()
        writer.resume({"policy": "training"}, 4)
        assert [shard.name for shard in writer.manifest.shards] == ["shard-000000", "shard-000002"]
        assert not (tmp_path / "shard-000001").exists()
        add(writer, 3, 8)
        assert not writer.manifest.recordings[0].is_complete
    assert open_data(tmp_path).facts.number.tolist() == [0, 2, 3]


@pytest.mark.slow
def test_killed_and_resumed_the_set_is_that_of_a_straight_run(tmp_path, capsys):
    """And it can be read while the run goes on."""

    recorded, seen, run = (*CATCH, "--config.record.path=set"), [], tmp_path / "run"

    def is_under_way():
        if not seen and (run / "set/manifest.json").exists() and read_manifest(run / "set").shards:
            seen.append(open_data(run / "set").num_episodes)
        return bool(seen) and num_rows(run) > max(checkpoints(run), default=1000) + 3

    code, _ = signalled(signal.SIGKILL, *recorded, workdir=run, when=is_under_way)
    assert code == -signal.SIGKILL
    assert seen[0] > 100
    for folder in (run, tmp_path / "straight"):
        folder.mkdir(exist_ok=True)
        result = launch(*recorded, "--workdir", folder, cwd=folder)
        assert result.returncode == 0, result.stderr
    assert_same(run, tmp_path / "straight", CATCH)
    assert episodes_of(run / "set") == episodes_of(tmp_path / "straight/set")
    assert inspect_data.main(["inspect_data.py", str(run / "set")]) == 0
    assert "run in training" in capsys.readouterr().out


@pytest.mark.slow
def test_processes_write_beside_each_other_and_are_read_as_one(tmp_path):
    arguments = (*CATCH[:2], "--config.total_env_steps=12_800", "--config.log.every_updates=1")
    arguments = (*arguments, "--config.checkpoint.every_updates=10")
    with job(
        *arguments, f"--config.record.path={tmp_path / 'two'}", "--workdir", tmp_path / "b", cwd=tmp_path, processes=2
    ) as started:
        codes, errors = finish_job(started)
    assert codes == [0, 0], errors
    result = launch(*arguments, f"--config.record.path={tmp_path / 'one'}", "--workdir", tmp_path / "a", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    one, two = open_data(tmp_path / "one"), open_data(tmp_path / "two")
    assert (tmp_path / "two/process-1/manifest.json").exists()
    assert {*zip(one.facts.seed, one.facts.number, strict=True)} == {
        *zip(two.facts.seed, two.facts.number, strict=True)
    }
    assert len(two.recordings) == 1
