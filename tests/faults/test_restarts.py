"""Real training that fails and is started again by the launcher; tests/launch/ has the cases."""

import os
from pathlib import Path
import re
import signal

import pytest

from tests.faults.commands import SCRIPTED
from tests.faults.sameness import assert_same
from tests.processes import checkpoints, finish, launch, running, wait_for

ONCE = ("--config.env.options.only_in_pool=3", "--config.env.options.raise_at_step=6")  # After the boundary.
ALWAYS = ("--config.env.options.raise_at_step=6",)
RESTARTED = ("--max_restarts", 3, "--restart_pause_s", 0, "--workdir", "run")


def test_a_run_that_failed_once_ends_as_if_it_had_not(tmp_path, straight_scripted):
    result = launch(*SCRIPTED, *ONCE, *RESTARTED, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert re.search(r"p0 ended with exit code 1, at update [45]: restart 1 of 3 in 0 s.", result.stderr)
    assert "Resumes the run in this folder after update 4" in result.stderr
    assert_same(tmp_path / "run", straight_scripted, SCRIPTED)


@pytest.mark.slow
def test_a_job_of_two_processes_goes_on_after_one_was_killed(tmp_path):
    two, gate = ("--local_processes", 2), tmp_path / "gate"
    straight = launch(*SCRIPTED, *two, "--workdir", "straight", cwd=tmp_path)
    assert straight.returncode == 0, straight.stderr
    assert "[Gloo]" not in straight.stdout
    held = {"only_in_pool": 3, "hang_at_step": 1, "hang_until": gate}  # After the boundary, until it is killed.
    options = [f"--config.env.options.{name}={value}" for name, value in held.items()]
    with running(*SCRIPTED, *options, *two, *RESTARTED, cwd=tmp_path) as process:
        wait_for(lambda: checkpoints(tmp_path / "run") == [4], process)
        members = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(members[1]), signal.SIGKILL)
        stderr = finish(process)
    assert process.returncode == 0, stderr
    assert re.search(r"p1 was killed by SIGKILL, at update 4: restart 1 of 3 in 0 s.", stderr)
    assert "[p0] ERROR: Process 1" in re.sub(r" [\d:]+\]", "]", stderr)
    assert_same(tmp_path / "run", tmp_path / "straight", SCRIPTED)


@pytest.mark.slow
def test_a_run_that_always_fails_is_given_up_at_once(tmp_path):
    result = launch(*SCRIPTED, *ALWAYS, *RESTARTED, cwd=tmp_path)
    assert result.returncode == 1
    assert "no further than before" in result.stderr
    assert result.stderr.count("The run failed: actor 0 failed: RuntimeError") == 2
