"""Actor workers in real processes: what they learn, and what becomes of a run that loses one."""

import os
import re
import signal
import time

import pytest

from tests.experience.remote.test_faults import worker_pid
from tests.faults.commands import BREAKOUT, CATCH
from tests.faults.sameness import assert_same
from tests.processes import LIMIT_S, ROOT, checkpoints, error_lines, launch, read_rows, running, wait_for

TWO = ("--config.actors.threads_per_device=2", "--config.actors.pools_per_thread=1")


def run_with_fault(workdir, number, *flags):
    """Signals a worker in the midst of a run; returns the exit code, stderr, and the seconds from then to the end."""
    told = []
    workdir.mkdir()
    with running(*CATCH, *TWO, "--workdir", workdir, "--actor_workers", 2, *flags, cwd=workdir) as process:
        pid = worker_pid(process, 1, told, "actor worker")
        wait_for(lambda: bool(checkpoints(workdir)), process)
        os.kill(pid, number)
        start_s = time.monotonic()
        _, rest = process.communicate(timeout=LIMIT_S)
        return process.returncode, "".join(told) + rest, time.monotonic() - start_s


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_which_restarts_with_new_workers(tmp_path):
    straight = launch(*CATCH, *TWO, "--workdir", tmp_path / "straight", cwd=tmp_path)
    assert straight.returncode == 0, straight.stderr
    code, stderr, _ = run_with_fault(tmp_path / "run", signal.SIGKILL, "--max_restarts", 1)
    assert code == 0, stderr
    assert re.search(r"actor worker 1 \(.*\) was lost: its process ended", stderr)
    assert "restart 1 of 1" in stderr
    assert "Resumes the run in this folder after update" in stderr
    assert_same(tmp_path / "run", tmp_path / "straight", CATCH)


@pytest.mark.slow
def test_a_stopped_worker_ends_the_run_in_time(tmp_path):
    code, stderr, seconds = run_with_fault(tmp_path / "run", signal.SIGSTOP, "--config.remote.timeout_s=10")
    assert code == 1, stderr
    assert any(re.search(r"actor worker 1 \(.*\) was lost: .*does not answer", line) for line in error_lines(stderr))
    assert seconds < 90


@pytest.mark.long
def test_breakout_runs_with_actor_workers(tmp_path):
    result = launch(*BREAKOUT, *TWO, "--actor_workers", 2, "--workdir", tmp_path / "run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(read_rows(tmp_path / "run")) == 12
    assert "8 versions of parameters in 16 PARAMS messages" in result.stderr


@pytest.mark.long
def test_catch_is_learned_in_two_minutes(tmp_path):
    config = ROOT / "configs/impala_catch_mono.py"
    start_s = time.monotonic()
    with running(
        "--config", config, "--actor_workers", 2, "--workdir", tmp_path, cwd=tmp_path, xla_flags=""
    ) as process:
        _, stderr = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, stderr
    assert read_rows(tmp_path)[-1]["episode/return"] >= 0.95
    assert time.monotonic() - start_s < 120
