"""Mistakes with a run from a data set: each is said in one line, and none goes on with other rows."""

import dataclasses
import json
import os
from pathlib import Path
import pydoc
import threading

import jax
import pytest
from tensorboardX.proto.event_pb2 import SessionLog

from podrl import train
from podrl.assembly import assemble
from podrl.config.config import ConfigError
from podrl.data.reader import HostSampler, SampleReader
from podrl.loops.recorded_start import check_same_data, warn_of_other_settings
from podrl.runtime.job.job import ALONE
from podrl.smoke_data import with_smoke_data
from tests.offline_runs import offline_config, write_pendulum
from tests.processes import ROOT, launch, read_rows
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
        config = offline_config(data, watchdog_s=4.0, actors__timeout_s=3.0, **settings)
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
    process_index: int = 0
    process_count: int = 2

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


@pytest.mark.parametrize(
    ("settings", "recorded", "said"),
    [
        ({}, {}, ""),
        ({}, {"id": "Pendulum-v1", "workers": 5}, ""),
        ({"env__max_episode_steps": 50}, {"max_episode_steps": 7}, "env.max_episode_steps was 7, is 50"),
        ({}, {"options": {"g": 9.0}}, "env.options.g was 9.0, is not there"),
        ({}, {"id": "Pendulum-v0"}, "env.id was Pendulum-v0, is Pendulum-v1"),
    ],
)
def test_a_set_of_another_environment_is_warned_of_in_one_line(data, caplog, settings, recorded, said):
    assembly = assemble(offline_config(data))
    section = {key.removeprefix("env__"): value for key, value in settings.items()}
    env = dataclasses.replace(assembly.config.env, **section)
    spec = dataclasses.replace(assembly.recorded.data.spec, settings=recorded)
    rows = dataclasses.replace(assembly.recorded.data, spec=spec)
    warn_of_other_settings(
        dataclasses.replace(
            assembly,
            config=dataclasses.replace(assembly.config, env=env),
            recorded=dataclasses.replace(assembly.recorded, data=rows),
        )
    )
    assert [record.getMessage() for record in caplog.records if "another environment" in record.getMessage()] == (
        [f"data.path={data} was recorded in another environment: {said}."] if said else []
    )


class TestSmokeData:
    def config(self, path):
        return offline_config(path, smoke=True)

    def test_a_path_that_is_no_data_set_is_a_warning_that_names_it(self, tmp_path, caplog):
        path = with_smoke_data(self.config("mistyped"), str(tmp_path / "run"), ALONE, steps=1).data.path
        (said,) = [record for record in caplog.records if "mistyped" in record.getMessage()]
        assert said.levelname == "WARNING"
        assert path == str(tmp_path / "run-smoke-data")

    def test_a_workdir_in_an_object_store(self, tmp_path, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        config, workdir = self.config("none"), "gs://bucket/run"
        path, again = (with_smoke_data(config, workdir, ALONE, steps=1).data.path for _ in range(2))
        assert path == again
        assert Path(path).parent == tmp_path
        assert (Path(path) / "manifest.json").exists()
        with pytest.raises(ConfigError, match="--smoke with --workdir=gs://bucket/run: the data set that it records"):
            with_smoke_data(config, workdir, Processes(""), steps=1)


@pytest.mark.parametrize("name", ["data-reader", "recorder"])
def test_a_thread_that_is_stuck_does_not_hold_up_the_exit(monkeypatch, name):
    left, ended = [], threading.Event()
    monkeypatch.setattr(train, "leave", left.append)
    thread = threading.Thread(target=ended.wait, args=(20,), name=name, daemon=True)
    thread.start()
    assert train._exit_code(1, ALONE) == 1
    ended.set()
    thread.join()
    assert left == [1]


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("benchmark", ()),
        pytest.param("plan", ("--topology", "this"), marks=SLOW),
        pytest.param("scaling_study", ("--workdir", "study", "--processes", "1", "--seconds", "30"), marks=SLOW),
    ],
)
def test_a_tool_for_other_runs_says_so(tmp_path, tool, arguments):
    config = ("--config", ROOT / "configs/td3_hopper.py", "--config.data.path=x", "--config.total_updates=9")
    result = launch(*config, *arguments, cwd=tmp_path, program=ROOT / f"tools/{tool}.py")
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if line.strip()]
    assert "is for runs that make experience of their own, and this one learns from a data set" in line
