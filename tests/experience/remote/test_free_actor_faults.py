"""Actor workers of a run with determinism='free' that are killed, stopped or fail: the run continues with the rest."""

import os
import signal

import pytest

from tests.experience.remote.test_free_faults import Log, advance, check_rows, end
from tests.processes import ROOT, running

pytestmark = pytest.mark.slow

MONO = (
    *("--config", ROOT / "configs/impala_catch_mono.py", "--config.determinism=free"),
    *("--config.total_env_steps=1e12", "--config.log.every_updates=1", "--config.log.tensorboard=False"),
    *("--actor_workers", 2),
)
NOUN = "ctor worker"


def test_workers_that_fail_and_are_killed_are_replaced_while_the_run_continues(tmp_path, monkeypatch):
    monkeypatch.setenv("FAILING_ONCE", f"{tmp_path}/fail")
    flags = ("--config.env.source=tests.envs.failing_once", "--workdir", tmp_path)
    with running(*MONO, *flags, cwd=tmp_path) as process:
        log = Log(process)
        pids = {str(index): log.wait_for_worker(index, NOUN) for index in range(2)}
        advance(tmp_path, process)
        (tmp_path / "fail").touch()
        failed = log.wait_for(
            r"actor worker (\d) \(.*\) was lost: .*failed: RuntimeError.*fails once.*Waits for another"
        )[1]
        assert log.wait_for_worker(failed, NOUN) == pids.pop(failed)
        advance(tmp_path, process)
        ((other, killed),) = pids.items()
        os.kill(killed, signal.SIGKILL)  # From here on only workers that were admitted again make rollouts.
        log.wait_for(rf"actor worker {other} \(\S+, process {killed}\) was lost: its process ended")
        advance(tmp_path, process)
        assert log.wait_for_worker(other, NOUN) != killed
        advance(tmp_path, process)
        said = end(process, log)
    assert said.count(") was lost: ") == 2
    assert f"in process {killed} was killed by SIGKILL." in said
    assert f"Starts another actor worker in place of process {killed}." in said
    check_rows(tmp_path)


def test_a_stopped_worker_is_given_up_and_comes_back(tmp_path):
    with running(*MONO, "--config.remote.timeout_s=8", "--workdir", tmp_path, cwd=tmp_path) as process:
        log = Log(process)
        pid = log.wait_for_worker(1, NOUN)
        advance(tmp_path, process)
        os.kill(pid, signal.SIGSTOP)
        try:
            log.wait_for(rf"actor worker 1 \(\S+, process {pid}\) was lost: .*does not answer")
            advance(tmp_path, process)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert log.wait_for_worker(1, NOUN) == pid
        advance(tmp_path, process)
        said = end(process, log)
    assert said.count(") was lost: ") == 1
    check_rows(tmp_path)
