"""A real study of two points: one is killed half-way, and the same command goes on."""

import csv
import os
from pathlib import Path
import signal

import pytest

from tests.processes import ROOT, checkpoints, finish, num_rows, read_rows, running, wait_for
from tests.studies.studies import CATCH

PROC = Path("/proc")
PROGRAM = ROOT / "tools/scaling_study.py"
STEPS = 64_000
STUDY = (
    *(f"--config={CATCH}", "--workdir=study", "--processes=1,2", f"--steps={STEPS}", "--scaling=strong"),
    *("--config.actors.num_envs=16", "--config.network.hidden_sizes=(16,)", "--config.log.every_updates=1"),
    *("--config.checkpoint.every_updates=10", "--no_prediction"),
)


def children_of(process):
    return [int(child) for child in (PROC / f"{process.pid}/task/{process.pid}/children").read_text().split()]


def launcher_of(process):
    """The job that a study has started."""
    (child,) = children_of(process)
    return child


@pytest.mark.slow
def test_a_study_goes_on_after_its_job_was_killed_and_after_ctrl_c(tmp_path):
    first, second = (tmp_path / f"study/points/strong-{count}x1/seed-1" for count in (1, 2))
    with running(*STUDY, cwd=tmp_path, program=PROGRAM) as process:
        wait_for(lambda: num_rows(first) >= 25 and checkpoints(first), process)
        os.kill(launcher_of(process), signal.SIGKILL)
        wait_for(lambda: num_rows(second) >= 25, process)  # The study goes on with the next.
        process.send_signal(signal.SIGINT)
        said = finish(process)
    assert process.returncode == 130
    assert "strong-1x1, seed 1" in said
    assert "1 of 2: half-done: killed by SIGKILL; the same command resumes it" in said
    assert "Stopped. The same command goes on." in said
    assert not (first / "result.json").exists()

    with running(*STUDY, cwd=tmp_path, program=PROGRAM) as process:
        said = finish(process)
    assert process.returncode == 0, said
    assert "1 of 2: resumes strong-1x1, seed 1" in said
    assert "All 2 runs are complete." in said
    for folder, log in ((first, "Resumes the run in this folder after update"), (second, "Resumes")):
        assert log in (folder / "job.log").read_text()
        assert read_rows(folder)[-1]["env_steps"] == STEPS
    rows = list(csv.DictReader((tmp_path / "study/runs.csv").read_text().splitlines()))
    assert [row["status"] for row in rows] == ["complete", "complete"]
    assert [row["starts"] for row in rows] == ["2", "2"]
    assert all(float(row["env_steps_per_second"]) > 0 for row in rows)

    with running(*STUDY, cwd=tmp_path, program=PROGRAM) as process:
        said = finish(process)
    assert "1 of 2" not in said
    assert process.returncode == 0


@pytest.mark.slow
def test_the_process_that_predicts_ends_with_a_study_that_is_killed(tmp_path):
    """It shares the study's pipes, for whose end `communicate` waits."""
    predicted = [each for each in STUDY if each != "--no_prediction"]
    with running(*predicted, cwd=tmp_path, program=PROGRAM) as process:
        wait_for(lambda: children_of(process), process)
        process.kill()
        process.communicate(timeout=60)
    assert not (tmp_path / "study/points/strong-1x1/seed-1").exists()  # It was killed while it predicted.


@pytest.mark.slow
def test_seconds_end_a_run(tmp_path):
    arguments = [each for each in STUDY if not each.startswith("--steps")]
    with running(*arguments, "--processes=1", "--seconds=2", cwd=tmp_path, program=PROGRAM) as process:
        said = finish(process)
    assert process.returncode == 0, said
    (row,) = csv.DictReader((tmp_path / "study/runs.csv").read_text().splitlines())
    assert float(row["measured_s"]) >= 2
    assert int(row["env_steps"]) < 500_000
    assert row["exit_code"] == "75"
    last = (tmp_path / "study/points/strong-1x1/seed-1/job.log").read_text().splitlines()[-1]
    assert "Ended by the study as planned, after the 2 s of training that --seconds gives a run." in last
