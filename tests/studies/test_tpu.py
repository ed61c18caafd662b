"""What a study would run on TPU slices, taken apart by the launcher itself. No slice was at hand."""

import os
import shlex
import shutil

import pytest

from podrl.commands import study as scaling_study
from tests.processes import ROOT, launch

STUDY = (
    *("--config=configs/impala_catch.py", "--workdir=gs://bucket/study", "--launch=tpu", "--tpu=study", "--zone=z"),
    *("--slices=v5litepod-4=1x4,v5litepod-16=4x4", "--scaling=weak", "--steps=100_000", "--spot"),
    *("--runtime_version=v2", "--config.actors.num_envs=32", "--seeds=1,2"),
)


@pytest.fixture(autouse=True)
def with_stand_in(tmp_path, monkeypatch):
    """A gcloud that would note down what it is called for."""
    monkeypatch.chdir(ROOT)
    shutil.copy(ROOT / "tests/launch/gcloud", tmp_path / "gcloud")
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def commands(capsys, *more):
    assert scaling_study.main(["scaling_study.py", *STUDY, "--dry_run", *more]) == 0
    return [line for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]


def test_runs_of_a_slice_come_together(capsys):
    found = [next(word for word in shlex.split(line) if word.startswith("--tpu=")) for line in commands(capsys)]
    assert found == ["--tpu=study-v5litepod-4"] * 2 + ["--tpu=study-v5litepod-16"] * 2


def test_environments_grow_with_the_learners_chips(capsys):
    """Half of four chips learn: two of the small slice, eight of the large."""
    lines = commands(capsys)
    assert [("--config.actors.num_envs=128" in line, "--config.actors.num_envs=32" in line) for line in lines] == [
        (False, True),
        (False, True),
        (True, False),
        (True, False),
    ]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="what is shipped to a slice is what git tracks")
def test_the_launcher_takes_the_commands(capsys, tmp_path):
    line = commands(capsys)[-1]
    result = launch(*shlex.split(line)[2:], "--dry_run", cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert (
        "gcloud compute tpus tpu-vm create study-v5litepod-16 --version=v2 --accelerator-type=v5litepod-16 --spot "
        "--zone=z" in result.stdout
    )
    assert "--workdir=gs://bucket/study/points/weak-v5litepod-16-4x4/seed-2" in result.stdout
    assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--slices=v5litepod-4"], "--slices: 'v5litepod-4' must be TYPE=PROCESSESxCHIPS"),
        (["--processes=4"], "--processes: a TPU's type says how many."),
        (["--workdir=here"], "/here: with --launch tpu it must be in a bucket, gs://BUCKET/FOLDER"),
        (["--seconds=5"], "is in an object store, where metrics come late. Use --steps instead of --seconds."),
        (["--partition=p"], "--partition is for --launch slurm."),
    ],
)
def test_mistakes_are_one_line(capsys, more, message):
    assert scaling_study.main(["scaling_study.py", *STUDY, *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
