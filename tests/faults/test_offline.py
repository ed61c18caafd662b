"""A run from a data set that is ended from outside: what resumes is the straight run, byte for byte."""

import os
from pathlib import Path
import random
import re
import signal
import time

import pytest

from tests.faults.sameness import assert_same
from tests.faults.test_kill import go_on, is_done, straight
from tests.offline_runs import COMMAND, write_pendulum
from tests.processes import checkpoints, finish, launch, num_rows, running, signalled, wait_for


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    folder = write_pendulum(tmp_path_factory.mktemp("data") / "set")
    return (*COMMAND, f"--config.data.path={folder}", "--config.data.window=150")


@pytest.fixture(scope="module")
def whole(arguments, tmp_path_factory):
    return straight(arguments, tmp_path_factory.mktemp("straight") / "run")


def test_a_kill_and_a_signal(arguments, whole, tmp_path):
    run = tmp_path / "run"
    code, _ = signalled(signal.SIGKILL, *arguments, workdir=run, when=lambda: len(checkpoints(run)) > 1)
    assert code == -signal.SIGKILL
    assert num_rows(run) < 600
    later = checkpoints(run)[-1] + 60
    with running(*arguments, "--workdir", run, cwd=tmp_path) as process:
        wait_for(lambda: num_rows(run) >= later, process)
        process.send_signal(signal.SIGTERM)
        said = finish(process)
    assert process.returncode == 75, said
    assert "not bit for bit" not in said
    assert f"Resumes the run in this folder after update {checkpoints(run)[-1]}." in go_on(arguments, run)
    assert_same(run, whole, arguments)


def test_the_launcher_restarts_a_run_that_was_killed(arguments, whole, tmp_path):
    run = tmp_path / "run"
    with running(*(*arguments, "--workdir", run, "--max_restarts", 3, "--restart_pause_s", 0), cwd=tmp_path) as process:
        wait_for(lambda: len(checkpoints(run)) > 1, process)
        (member,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(member), signal.SIGKILL)
        said = finish(process)
    assert process.returncode == 0, said
    assert re.search(r"p0 was killed by SIGKILL, at update \d+: restart 1 of 3 in 0 s\.", said), said
    assert "Resumes the run in this folder after update" in said
    assert "not bit for bit" not in said
    assert_same(run, whole, arguments)


@pytest.mark.parametrize("most", [pytest.param(4, marks=pytest.mark.slow), pytest.param(10, marks=pytest.mark.long)])
def test_kills_at_any_moment(arguments, whole, tmp_path, most):
    """From the start of the process on: while it reads the data set, compiles, learns, saves, ends."""
    began_s = time.monotonic()
    straight(arguments, tmp_path / "timed")
    moments, runs, kills = random.Random(1), 0, 0
    whole_s = time.monotonic() - began_s
    while kills < most:
        run, runs, done = tmp_path / f"run{runs}", runs + 1, False
        run.mkdir()
        while not done and kills < most:
            done = is_done(run, arguments, moments.uniform(0.0, whole_s))
            kills += not done
        if not done:
            go_on(arguments, run)
        assert_same(run, whole, arguments)


def test_a_damaged_set_is_one_line_and_exit_code_two(arguments, tmp_path):
    folder = write_pendulum(tmp_path / "set")
    (path,) = folder.glob("shard-*/observation/c/0/0")
    content = bytearray(path.read_bytes())
    content[30] ^= 1
    path.write_bytes(content)
    result = launch(*COMMAND, f"--config.data.path={folder}", "--workdir", "run", cwd=tmp_path)
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if "rror" in line]
    assert "data.path: Shard shard-000000 in" in line
    assert "Traceback" not in result.stderr
