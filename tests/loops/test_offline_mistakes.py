"""Mistakes with a run from a data set: each is said in one line, and none goes on with other rows."""

import dataclasses
import json
import os
import pydoc
import threading

import jax
import pytest
from tensorboardX.proto.event_pb2 import SessionLog

from podrl import train
from podrl.assembly import assemble
from podrl.config.config import ConfigError
from podrl.data.reader import HostSampler, SampleReader
from podrl.loops.recorded_start import check_same_data
from tests.offline_runs import offline_config, write_pendulum
from tests.processes import read_rows
from tests.telemetry.test_writer import events_of

pytestmark = pytest.mark.usefixtures("compiled_once")
SLOW = pytest.mark.slow  # There is a quicker test of its kind.


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pendulum(tmp_path_factory.mktemp("data") / "set")


class TestWatched:
    """Whatever reads for a run from a data set is ended by the watchdog if it stands still."""

    @pytest.mark.parametrize(
        ("what", "settings"),
        [
            ("podrl.data.reader.HostSampler.load", {}),
            ("podrl.learning.recorded.open_data", {}),
            pytest.param(
                *("podrl.loops.recorded_start.data_statistics", {"network__normalize_observations": True}), marks=SLOW
            ),
            pytest.param(*("podrl.smoke_data.load_environment", {"smoke": True, "data__path": "none"}), marks=SLOW),
        ],
    )
    def test_a_read_that_hangs(self, data, tmp_path, monkeypatch, what, settings):
        ended, real = threading.Event(), pydoc.locate(what)

        def hang(*arguments, **named):
            if not ended.is_set():
                assert ended.wait(20), "the watchdog let it stand still"
            return real(*arguments, **named)

        monkeypatch.setattr("podrl.runtime.watchdog.leave", lambda code: ended.set())
        monkeypatch.setattr(what, hang)
        config = offline_config(data, watchdog_s=2.0, actors__timeout_s=1.0, **settings)
        train.train(config, workdir=str(tmp_path / "run"))
        assert ended.is_set()


def test_a_resumed_run_keeps_its_points_in_tensorboard(data, tmp_path):
    config = offline_config(data, log__tensorboard=True, checkpoint__every_updates=3)
    train.train(config, workdir=str(tmp_path))
    train.train(dataclasses.replace(config, total_updates=9), workdir=str(tmp_path), accept_changes=True)
    *_, resumed = sorted((tmp_path / "tensorboard").iterdir())
    start = [event for event in events_of(resumed) if event.session_log.status == SessionLog.START]
    assert [event.step for event in start] == [7]  # From here on earlier points would be dropped.


def test_normalized_rewards_of_an_agent_that_learns_from_none(data):
    with pytest.raises(ConfigError, match=r"network\.normalize_rewards=True with agent\.name='bc'.*no rewards"):
        offline_config(data, agent="bc", network__normalize_rewards=True)


class TestOtherRowsAtTheSamePath:
    def begin(self, folder, workdir, updates=2):
        config = offline_config(folder, total_updates=6)
        asked = []

        def stop():
            asked.append(None)
            return 75 if len(asked) > updates else 0

        train.train(config, workdir=str(workdir), stop_code=stop)
        return config

    def test_a_run_does_not_go_on_with_them_unless_it_is_told_to(self, tmp_path):
        folder, run = write_pendulum(tmp_path / "set"), tmp_path / "run"
        config = self.begin(folder, run)
        folder.rename(tmp_path / "before")
        write_pendulum(folder, episodes=41)
        with pytest.raises(
            ConfigError, match=r"holds a run from other rows than data\.path=.* --accept_changes"
        ) as said:
            train.train(config, workdir=str(run))
        assert "\n" not in str(said.value)
        assert train.train(config, workdir=str(run), accept_changes=True).finished
        train.train(config, workdir=str(run))  # These are its rows now.

    def test_a_copy_of_the_rows_is_the_same(self, data, tmp_path):
        one, other = (
            assemble(offline_config(path)).recorded.data.hash for path in (data, write_pendulum(tmp_path / "a"))
        )
        assert one == other

    def test_checkpoints_and_the_folder_say_which_they_were(self, data, tmp_path):
        self.begin(data, tmp_path / "run")
        manifests = [tmp_path / "run/manifest.json", *(tmp_path / "run/checkpoints").glob("*/manifest/metadata")]
        assert len(manifests) > 1
        assert {json.loads(path.read_text())["data"] for path in manifests} == {
            assemble(offline_config(data)).recorded.data.hash
        }

    def test_a_path_from_the_working_folder_is_that_of_the_start(self, data, tmp_path, monkeypatch):
        monkeypatch.chdir(data.parent)
        self.begin(data.name, tmp_path / "run")
        assert json.loads((tmp_path / "run/config.json").read_text())["data"]["path"] == os.fspath(data)


@dataclasses.dataclass
class Processes:
    """The part of a job of two that a comparison needs, whose other process has something else."""

    other: str
    left: int = -1

    def exchange(self, name, value, timeout_s):
        return [value, self.other or value]

    def name_of(self, process):
        return f"process {process}"

    def leave(self, code):
        self.left = code


def test_processes_compare_their_data_sets(data):
    assembly, job = assemble(offline_config(data), jax.devices()[:1]), Processes("abc")
    check_same_data(assembly, Processes(""))
    with pytest.raises(ConfigError, match="has other rows on process 1 than on process 0: the hashes are abc and "):
        check_same_data(assembly, job)
    assert job.left == 2


def test_a_run_that_is_stopped_while_it_waits_for_samples_saves_what_it_has(data, tmp_path, monkeypatch):
    waits, released = threading.Event(), threading.Event()
    samples, take = HostSampler.samples, SampleReader.take

    def make_slowly(self, update):
        if update == 3:
            released.wait(20)
        return samples(self, update)

    def take_at_last(self, update, should_stop):
        if update == 3:
            waits.set()
        return take(self, update, should_stop)

    monkeypatch.setattr(HostSampler, "samples", make_slowly)
    monkeypatch.setattr(SampleReader, "take", take_at_last)
    monkeypatch.setattr("podrl.data.reader._JOIN_S", 0.1)
    config = offline_config(data, log__every_updates=5)
    stopped = train.train(config, workdir=str(tmp_path), stop_code=lambda: 75 if waits.is_set() else 0)
    released.set()
    assert (stopped.stop_code, stopped.counters.learner_steps) == (75, 3)
    assert (tmp_path / "checkpoints/3").exists()
    row = read_rows(tmp_path)[-1]
    assert row["learner_steps"] == 3
    assert row["fingerprint/batch"]
