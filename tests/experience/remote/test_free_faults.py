"""Workers of a run with determinism='free' that are killed, stopped or fail, in real processes: the run continues."""

import contextlib
import os
import re
import signal

import pytest

from podrl.runtime.watchdog import STALLED
from tests.processes import LIMIT_S, ROOT, error_lines, num_rows, read_rows, running, wait_for

pytestmark = pytest.mark.slow

POLY = (
    *("--config", ROOT / "configs/impala_catch_poly.py", "--config.total_env_steps=1e12"),
    *("--config.log.every_updates=1", "--config.log.tensorboard=False"),
)
UPDATES = 20  # Between a fault and what is looked at after it.


class Log:
    """What a process says, line by line."""

    def __init__(self, process):
        self._process, self.lines = process, []

    def wait_for(self, pattern):
        """Reads until a line has it, and returns the match."""
        for line in self._process.stderr:
            self.lines.append(line)
            if found := re.search(pattern, line):
                return found
        raise AssertionError("".join(self.lines))

    def wait_for_worker(self, index, noun="nvironment worker"):
        return int(self.wait_for(rf"{noun} {index} \(\S+, process (\d+)\) is there")[1])


def advance(workdir, process):
    """Waits until the run has made some more updates."""
    begun = num_rows(workdir)
    wait_for(lambda: num_rows(workdir) >= begun + UPDATES, process)


def end(process, log):
    """Ends the run by SIGTERM and returns all that it has said."""
    process.terminate()
    _, rest = process.communicate(timeout=LIMIT_S)
    return "".join(log.lines) + rest


def check_rows(workdir):
    rows = read_rows(workdir)
    assert [row["learner_steps"] for row in rows] == list(range(1, len(rows) + 1))
    assert all(row["lag/max"] <= 2 for row in rows)
    assert rows[-1]["env_steps"] == len(rows) * 640


def test_a_killed_worker_is_replaced_while_the_run_continues(tmp_path):
    with running(*POLY, "--workdir", tmp_path, "--env_workers", 2, cwd=tmp_path) as process:
        log = Log(process)
        first = log.wait_for_worker(1)
        advance(tmp_path, process)
        os.kill(first, signal.SIGKILL)
        log.wait_for(rf"environment worker 1 \(\S+, process {first}\) was lost: its process ended.*Waits for another")
        advance(tmp_path, process)
        second = log.wait_for_worker(1)
        advance(tmp_path, process)
        said = end(process, log)
    assert first != second
    assert said.count(") was lost: ") == 1
    assert f"in process {first} was killed by SIGKILL." in said
    assert f"Starts another environment worker in place of process {first}." in said
    check_rows(tmp_path)


def test_a_stopped_worker_is_given_up_and_comes_back(tmp_path):
    flags = ("--config.remote.timeout_s=8", "--env_workers", 2)
    with running(*POLY, "--workdir", tmp_path, *flags, cwd=tmp_path) as process:
        log = Log(process)
        pid = log.wait_for_worker(1)
        advance(tmp_path, process)
        os.kill(pid, signal.SIGSTOP)
        try:
            log.wait_for(rf"environment worker 1 \(\S+, process {pid}\) was lost: it has not answered for 8 s")
            advance(tmp_path, process)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert log.wait_for_worker(1) == pid
        advance(tmp_path, process)
        said = end(process, log)
    assert said.count(") was lost: ") == 1
    check_rows(tmp_path)


def test_a_worker_whose_environment_raises_comes_back(tmp_path, monkeypatch):
    monkeypatch.setenv("FAILING_ONCE", f"{tmp_path}/fail")
    flags = ("--config.env.source=tests.envs.failing_once", "--env_workers", 2)
    with running(*POLY, "--workdir", tmp_path, *flags, cwd=tmp_path) as process:
        log = Log(process)
        wait_for(lambda: num_rows(tmp_path) > 0, process)
        (tmp_path / "fail").touch()
        found = log.wait_for(
            r"environment worker (\d) \(\S+, process (\d+)\) was lost: .*failed: RuntimeError.*fails once"
        )
        assert log.wait_for_worker(found[1]) == int(found[2])
        advance(tmp_path, process)
        said = end(process, log)
    assert said.count(") was lost: ") == 1
    check_rows(tmp_path)


def test_without_any_worker_the_run_ends_with_a_line(tmp_path):
    flags = ("--config.remote.join_timeout_s=20", "--config.remote.timeout_s=10", "--env_workers", 2)
    with running(*POLY, "--workdir", tmp_path, *flags, cwd=tmp_path) as process:
        log = Log(process)
        pids = [log.wait_for_worker(index) for index in range(2)]
        advance(tmp_path, process)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            _, rest = process.communicate(timeout=LIMIT_S)
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
    assert process.returncode == STALLED
    assert any("All environment workers of actor 0 have been gone for 20 s" in line for line in error_lines(rest))
