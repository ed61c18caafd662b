"""Faults of environment workers in real processes: the run ends in time, names them, and resumes bit for bit."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from podrl.runtime.job.secret import FILE_VARIABLE
from podrl.runtime.stop_signals import PREEMPTED
from podrl.runtime.watchdog import STALLED
from tests.experience.remote.in_process import write_secret
from tests.experience.remote.places import Place
from tests.faults.commands import CATCH
from tests.faults.sameness import assert_same
from tests.processes import LIMIT_S, ROOT, checkpoints, environment, error_lines, launch, running, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The run without workers."""
    workdir = tmp_path_factory.mktemp("straight")
    result = launch(*CATCH, "--workdir", workdir, cwd=workdir)
    assert result.returncode == 0, result.stderr
    return workdir


def worker_pid(process, index, told, noun="environment worker"):
    """Reads the log until the worker with this number has come, and returns its process."""
    for line in process.stderr:
        told.append(line)
        if found := re.search(rf"{noun[1:]} {index} \(\S+, process (\d+)\) is there", line):
            return int(found[1])
    raise AssertionError("".join(told))


def run_with_fault(workdir, number, *flags):
    """Signals a worker in the midst of a run; returns the exit code, stderr, and the seconds from then to the end."""
    told = []
    workdir.mkdir()
    with running(*CATCH, "--workdir", workdir, "--env_workers", 2, *flags, cwd=workdir) as process:
        pid = worker_pid(process, 1, told)
        wait_for(lambda: bool(checkpoints(workdir)), process)
        os.kill(pid, number)
        start_s = time.monotonic()
        _, rest = process.communicate(timeout=LIMIT_S)
        return process.returncode, "".join(told) + rest, time.monotonic() - start_s


def test_a_killed_worker_ends_the_run_which_restarts_with_new_workers(tmp_path, straight):
    code, stderr, _ = run_with_fault(tmp_path / "run", signal.SIGKILL, "--max_restarts", 1)
    assert code == 0, stderr
    assert re.search(r"environment worker 1 \(.*\) was lost: its process ended", stderr)
    assert "was killed by SIGKILL" in stderr
    assert "restart 1 of 1" in stderr
    assert "Resumes the run in this folder after update" in stderr
    assert_same(tmp_path / "run", straight, CATCH)


def test_a_stopped_worker_ends_the_run_in_time(tmp_path):
    code, stderr, seconds = run_with_fault(tmp_path / "run", signal.SIGSTOP, "--config.remote.timeout_s=10")
    assert code == STALLED, stderr
    assert any(
        re.search(r"environment worker 1 \(.*\) has not answered for 10 s", line) for line in error_lines(stderr)
    )
    assert seconds < 60


def env_worker(folder, *flags):
    command = (sys.executable, str(ROOT / "tools/env_worker.py"), "--connect", f"unix:{folder}/s", *flags)
    environ = {**environment(), FILE_VARIABLE: str(write_secret(folder))}
    return subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)


def test_a_worker_stays_at_the_first_signal_and_ends_at_the_second(tmp_path):
    place = Place(f"unix:{tmp_path}/s")
    with place.server, env_worker(tmp_path) as worker:
        place.pool(join_s=LIMIT_S).reset()
        worker.terminate()
        time.sleep(1.5)
        assert worker.poll() is None
        worker.terminate()
        _, stderr = worker.communicate(timeout=LIMIT_S)
    assert worker.returncode == PREEMPTED
    assert "Traceback" not in stderr


def test_a_worker_of_the_launchers_that_no_run_has_admitted_ends_without_a_word(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/s")
        listener.listen()
        with env_worker(tmp_path, "--quiet") as worker:
            listener.accept()
            worker.terminate()
            _, stderr = worker.communicate(timeout=LIMIT_S)
    assert (worker.returncode, stderr) == (PREEMPTED, "")
