"""Networks that are cut for real, a learner that stands still, and garbage on its port, in real runs."""

import contextlib
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time

import numpy as np
import pytest

from podrl.runtime.job.secret import FILE_VARIABLE
from podrl.runtime.job.worker_credentials import make_job_credentials
from podrl.runtime.watchdog import STALLED
from tests.experience.remote.in_process import write_secret
from tests.experience.remote.networks import network
from tests.experience.remote.places import NUM_ENVS, Place
from tests.faults.commands import CATCH
from tests.faults.sameness import assert_same
from tests.processes import (
    LIMIT_S,
    ROOT,
    checkpoints,
    environment,
    error_lines,
    finish,
    launch,
    num_rows,
    running,
    wait_for,
)

pytestmark = pytest.mark.slow
PORT = 8470
WORKER = (sys.executable, str(ROOT / "tools/env_worker.py"))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The run without workers."""
    workdir = tmp_path_factory.mktemp("straight")
    result = launch(*CATCH, "--workdir", workdir, cwd=workdir)
    assert result.returncode == 0, result.stderr
    return workdir


@pytest.fixture
def hosts():
    with network() as made:
        yield made


@contextlib.contextmanager
def worker(command, **environ):
    """A worker under way; it does not outlive the context."""
    process = subprocess.Popen(command, env={**environment(), **environ}, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def run_over(hosts, folder, workdir):
    """A run with a worker here and one on the other host."""
    address, flags = f"{hosts.here}:{PORT}", ("--worker_certificates", folder)
    command = (*map(str, WORKER), "--connect", address, *map(str, flags))
    settings = {"env_workers": 2, "address": address, "certificates": folder, "timeout_s": 10}
    arguments = (f"--config.remote.{key}={value}" for key, value in settings.items())
    with (
        worker(command) as near,
        worker(hosts.command(*command)) as far,
        running(*CATCH, *arguments, "--workdir", workdir, cwd=workdir.parent) as process,
    ):
        yield process, near, far


def test_a_cut_network_ends_the_run_in_time_and_it_resumes_bit_for_bit(tmp_path, hosts, straight):
    folder, workdir = tmp_path / "credentials", tmp_path / "run"
    make_job_credentials(folder)
    with run_over(hosts, folder, workdir) as (process, near, far):
        wait_for(lambda: bool(checkpoints(workdir)), process)
        hosts.cut()
        begin_s = time.monotonic()
        _, stderr = process.communicate(timeout=LIMIT_S)
        seconds = time.monotonic() - begin_s
        _, said = near.communicate(timeout=LIMIT_S)
        assert far.poll() is None  # It endures ten minutes.
    assert process.returncode == STALLED, stderr
    named = rf"environment worker \d \(\S+, process {far.pid}\) has not answered for 10 s"
    assert any(re.search(named, line) for line in error_lines(stderr)), stderr
    assert seconds < 60
    assert near.returncode == 1
    assert "ended with an error" in said
    hosts.mend()
    with run_over(hosts, folder, workdir) as (process, *_):
        said = finish(process)
        assert process.returncode == 0, said
    assert "Resumes the run in this folder after update" in said
    assert_same(workdir, straight, CATCH)


def test_a_network_that_is_cut_for_a_moment_is_endured(tmp_path, hosts):
    make_job_credentials(tmp_path / "job")
    place = Place(f"{hosts.here}:{PORT}", certificates=str(tmp_path / "job"))
    command = hosts.command(*WORKER, "--connect", place.endpoint.address, "--worker_certificates", tmp_path / "job")
    with place.server, worker(command, **{FILE_VARIABLE: str(write_secret(tmp_path))}) as far:
        pool = place.pool(join_s=LIMIT_S)
        pool.reset()
        hosts.cut()
        pool.send(np.zeros(NUM_ENVS, np.int32))
        time.sleep(2)
        hosts.mend()
        assert pool.recv().reward.shape == (NUM_ENVS,)
        pool.close()
        place.server.close(0)
        assert far.wait(LIMIT_S) == 0


def scan(port, rng):
    """Strangers of all kinds at a port."""
    for said in (b"", b"GET / HTTP/1.1\r\n\r\n", *(rng.bytes(size) for size in range(1, 2000, 100))):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as stranger, contextlib.suppress(OSError):
            stranger.sendall(said)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as stranger, contextlib.suppress(OSError):
        ssl._create_unverified_context().wrap_socket(stranger)


def test_garbage_at_its_port_and_a_learner_that_stands_still_change_nothing(tmp_path, straight):
    workdir, rng = tmp_path / "run", np.random.default_rng(0)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = {FILE_VARIABLE: str(write_secret(tmp_path))}
    command = (*WORKER, "--connect", f"127.0.0.1:{port}")
    settings = ("--config.remote.env_workers=2", f"--config.remote.address=127.0.0.1:{port}")
    with pytest.MonkeyPatch.context() as patch, worker(command, **environ) as one, worker(command, **environ) as other:
        patch.setenv(FILE_VARIABLE, environ[FILE_VARIABLE])
        with running(*CATCH, *settings, "--workdir", workdir, cwd=tmp_path, anew=True) as process:
            wait_for(lambda: num_rows(workdir) >= 15, process)
            scan(port, rng)
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(3)
            os.kill(process.pid, signal.SIGCONT)
            scan(port, rng)
            assert process.wait(LIMIT_S) == 0
        assert [each.wait(LIMIT_S) for each in (one, other)] == [0, 0]
    assert_same(workdir, straight, CATCH)
