"""What SLURM's queue is asked before a study is submitted; `tests/slurm` submits one."""

import pytest

from podrl.config.config import ConfigError
from podrl.studies import slurm_array
from podrl.studies.folder import Folder


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """A study with jobs 7 and 8, and an `squeue` that runs a script in a folder of its own."""

    def make(script):
        path = tmp_path / "bin/squeue"
        path.parent.mkdir()
        path.write_text(f"#!/bin/bash\ncd {path.parent}\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(path.parent), prepend=":")
        (tmp_path / "slurm").mkdir()
        (tmp_path / "slurm/jobs").write_text("7\n8\n")
        return Folder(tmp_path)

    return make


def test_a_controller_that_refuses_for_a_moment_is_asked_again(queue):
    slurm_array.require_idle(queue("if [ -e asked ]; then echo 9; else touch asked; exit 1; fi"))


def test_a_controller_that_goes_on_refusing_ends_the_command(queue, monkeypatch):
    monkeypatch.setattr(slurm_array, "_QUESTION_LIMIT_S", 0.5)
    with pytest.raises(ConfigError, match="squeue does not say which jobs still run: no controller"):
        slurm_array.require_idle(queue("echo no controller >&2; exit 1"))


def test_jobs_that_are_still_there_are_named(queue):
    with pytest.raises(ConfigError, match=r"still in SLURM's queue: 8\."):
        slurm_array.require_idle(queue("echo 8; echo 9"))
