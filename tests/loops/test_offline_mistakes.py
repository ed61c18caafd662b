"""Mistakes with a run from a data set: each is said in one line, and none goes on with other rows."""

import dataclasses
import json
import os

import jax
import pytest

from podrl import train
from podrl.assembly import assemble
from podrl.config.config import ConfigError
from podrl.loops.recorded_start import check_same_data
from tests.offline_runs import offline_config, write_pendulum

pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pendulum(tmp_path_factory.mktemp("data") / "set")


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
