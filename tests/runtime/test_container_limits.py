"""Limits of a container: trees of files as the kernel makes them, and real control groups where they can be made."""

import contextlib
import errno
import math
import os
import signal
import socket
import subprocess
import sys

import pytest

from podrl import train
from podrl.launch.local import make_members
from podrl.runtime import container_limits, interruption, machine, xla_flags
from podrl.runtime.container_limits import (
    GROUPS,
    LimitReached,
    cpu_quota,
    describe_limit,
    explain_limit,
    memory_limit,
    quota_cores,
)
from podrl.runtime.job.job import ALONE
from podrl.runtime.tool import run_tool
from tests.processes import LIMIT_S, ROOT, command, environment

V2, V1 = "0::/pod/run\n", "4:memory:/docker/a\n3:pids:/docker/a\n2:cpu,cpuacct:/docker/a\n1:name=systemd:/x\n0::/\n"
NO_LIMIT_V1 = "9223372036854771712"


def tree(folder, own, files):
    """Control groups under `folder`, as arguments of the readers."""
    for name, text in files.items():
        path = folder / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    (folder / "own").write_text(own)
    return folder / "groups", folder / "own"


@pytest.mark.parametrize(
    ("own", "files", "quota", "memory"),
    [
        (V2, {}, math.inf, math.inf),
        (V2, {"pod/run/cpu.max": "max 100000", "pod/run/memory.max": "max"}, math.inf, math.inf),
        (V2, {"pod/run/cpu.max": "150000 100000", "pod/run/memory.max": "4096"}, 1.5, 4096),
        (V2, {"pod/run/cpu.max": "max 100000", "pod/cpu.max": "50000 25000", "pod/memory.max": "8192"}, 2.0, 8192),
        (
            V2,
            {"cpu.max": "400000 100000", "memory.max": "4096"},
            4.0,
            4096,
        ),  # A container that sees itself as the root.
        (V1, {"cpu,cpuacct/docker/a/cpu.cfs_quota_us": "-1"}, math.inf, math.inf),
        (
            V1,
            {
                "cpu,cpuacct/docker/a/cpu.cfs_quota_us": "250000",
                "cpu,cpuacct/docker/a/cpu.cfs_period_us": "100000",
                "memory/docker/memory.limit_in_bytes": "65536",
                "memory/docker/a/memory.limit_in_bytes": NO_LIMIT_V1,
            },
            2.5,
            65536,
        ),
        (
            V1,
            {
                "cpu/cpu.cfs_quota_us": "100000",
                "cpu/cpu.cfs_period_us": "50000",
                "memory/memory.limit_in_bytes": "4096",
            },
            2.0,
            4096,
        ),
        ("", {}, math.inf, math.inf),
    ],
    ids=["none", "max", "own", "above", "as the root", "v1 none", "v1 own", "v1 as the root", "no groups"],
)
def test_the_tightest_limit_of_the_own_group_and_those_above_counts(own, files, quota, memory, tmp_path):
    groups = tree(tmp_path, own, files)
    assert (cpu_quota(*groups), memory_limit(*groups)) == (quota, memory)


@pytest.mark.parametrize(
    ("quota", "sharers", "cores"),
    [
        ("100000", "1", 1),
        ("150000", "1", 2),
        ("10000", "1", 1),
        ("400000", "2", 2),
        ("300000", "2", 2),
        ("max", "2", math.inf),
    ],
)
def test_a_quota_is_whole_cores_of_which_none_is_left_idle(quota, sharers, cores, tmp_path, monkeypatch):
    monkeypatch.setenv("PODRL_SHARERS", sharers)
    assert quota_cores(*tree(tmp_path, "0::/\n", {"cpu.max": f"{quota} 100000"})) == cores


def test_cores_are_counted_by_the_quota_and_xla_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr("podrl.runtime.machine.os.sched_getaffinity", lambda _: range(16), raising=False)
    monkeypatch.setattr(machine, "quota_cores", lambda: 3)
    for environ in ({}, {"NPROC": ""}):
        xla_flags.suit_xla_to_cpu(environ, ["cuda"])
        assert (machine.available_cores(), environ["NPROC"]) == (3, "3")
    environ = {"NPROC": "7"}
    xla_flags.suit_xla_to_cpu(environ, ["cuda"])
    assert environ["NPROC"] == "7"
    monkeypatch.setattr(machine, "quota_cores", lambda: math.inf)
    environ = {}
    xla_flags.suit_xla_to_cpu(environ, ["cuda"])
    assert (machine.available_cores(), environ) == (16, {})


def test_the_work_of_others_counts_by_the_share_that_a_quota_is_of_the_cores(monkeypatch, tmp_path):
    (tmp_path / "stat").write_text("cpu0 400 0 0 0 0 0 0 0\ncpu1 800 0 0 0 0 0 0 0\n")
    monkeypatch.setattr("podrl.runtime.machine.os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    whole = machine.busy_core_seconds(tmp_path / "stat")
    monkeypatch.setattr(machine, "quota_cores", lambda: 1)
    assert machine.busy_core_seconds(tmp_path / "stat") == whole / 2


def test_processes_that_one_launcher_starts_share_the_quota(monkeypatch):
    shape = {"program": "x", "devices_per_process": None, "gpus": [], "cores": [], "port": 1}

    def sharers(num_processes):
        return [
            member.environ.get("PODRL_SHARERS") for member in make_members([], num_processes=num_processes, **shape)
        ]

    monkeypatch.setattr("podrl.launch.local.cpu_quota", lambda: 4.0)
    assert (sharers(1), sharers(2)) == ([None], ["2", "2"])
    monkeypatch.setattr("podrl.launch.local.cpu_quota", lambda: math.inf)
    assert sharers(2) == [None, None]


REFUSED = "No more threads or processes can be started: "
PIDS = {"pids/docker/a/pids.max": "100", "pids/docker/a/pids.current": "99", "pids/docker/pids.max": "max"}


def caused_by(error):
    """What an environment's error becomes; it repeats the text."""
    failure = RuntimeError(f"env failed in step: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure


class TestThreads:
    def test_the_group_is_named_with_its_limit(self, tmp_path):
        groups = tree(tmp_path, V1, PIDS)
        assert f"pids.max=100 of this container's control group ({groups[0]}/pids/docker/a)" in describe_limit(*groups)

    def test_else_the_users_limit(self, tmp_path, monkeypatch):
        monkeypatch.setattr(container_limits.resource, "getrlimit", lambda _: (64, 128))
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        assert "RLIMIT_NPROC=64 for all that this user runs" in describe_limit(*tree(tmp_path, V1, PIDS))

    def test_errors_of_a_limit_are_told_from_others(self):
        for text in ("can't start new thread", "Resource temporarily unavailable"):
            assert explain_limit(RuntimeError(text)).startswith(REFUSED)
            assert explain_limit(caused_by(RuntimeError(text))).startswith(REFUSED)
        assert explain_limit(caused_by(LimitReached("this"))) == "this"
        assert explain_limit(RuntimeError("can't start the game")) is None
        assert explain_limit() is None

    def test_a_process_that_cannot_be_started_is_told_from_what_is_not_ready(self, monkeypatch):
        """The system has the same error for both."""

        def refuse(*_):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            with pytest.raises(BlockingIOError) as unready:
                ours.recv(1)
        monkeypatch.setattr(subprocess, "_fork_exec", refuse)
        with pytest.raises(BlockingIOError) as refused:
            subprocess.run(["true"], check=False)
        assert explain_limit(caused_by(refused.value)).startswith(REFUSED)
        assert explain_limit(unready.value) is None
        assert explain_limit(caused_by(unready.value)) is None

    def test_a_sigint_at_the_limit_is_no_ctrl_c(self, monkeypatch):
        """As OpenBLAS raises it when it gets no thread."""
        ended = []
        monkeypatch.setattr(interruption, "explain_limit", lambda: "No more threads.")
        monkeypatch.setattr(interruption, "leave", ended.append)
        with interruption.interruptible():
            signal.raise_signal(signal.SIGINT)
        assert ended == [1]

    def test_a_run_that_fails_at_the_limit_waits_for_no_thread(self, monkeypatch):
        """As Python would, at its end, for those of a save that the others never joined."""
        left = []
        monkeypatch.setattr(train, "leave", left.append)
        monkeypatch.setattr(train.threading, "enumerate", list)  # Not those that an earlier test left stuck.
        for error in (RuntimeError("can't start new thread"), RuntimeError("can't start the game")):
            assert train._exit_code(1, ALONE, error) == 1
        assert left == [1]

    def test_what_fails_at_the_limit_is_one_line(self, monkeypatch, capsys):
        def run():
            raise RuntimeError("can't start new thread")

        assert run_tool("podrl", run) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"podrl: error: {REFUSED}")


@contextlib.contextmanager
def group(controller, **limits):
    """A control group of version 1, and the start of a command in it; skips where none can be made."""
    folder = GROUPS / controller / f"podrl-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip(f"making a control group of {controller} wants root and version 1")
    try:
        for name, value in limits.items():
            (folder / name.replace("__", ".")).write_text(str(value))
        yield folder, ["sh", "-c", f'echo $$ > {folder}/cgroup.procs && exec "$@"', "-"]
    finally:
        folder.rmdir()


def test_a_real_quota_is_counted():
    program = "from podrl.runtime.machine import available_cores; print(available_cores())"
    with group("cpu", cpu__cfs_period_us=100_000, cpu__cfs_quota_us=90_000) as (_, within):
        result = subprocess.run([*within, sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True)
    assert result.stdout == b"1\n"


CATCH = command("--config", ROOT / "configs/impala_catch.py", "--config.total_env_steps=8000")


@pytest.mark.parametrize(
    ("most", "environ"),
    [
        pytest.param(2, {"OPENBLAS_NUM_THREADS": "4"}, id="at an import"),  # OpenBLAS raises SIGINT.
        pytest.param(20, {}, id="before training", marks=pytest.mark.slow),  # XLA would abort.
    ],
)
def test_a_run_that_gets_no_threads_names_the_limit(most, environ, tmp_path):
    with group("pids", pids__max=most) as (folder, within):
        result = subprocess.run(
            [*within, *CATCH],
            cwd=tmp_path,
            env=environment() | environ,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    said = [line for line in result.stderr.splitlines() if not line.startswith("OpenBLAS")]
    assert result.returncode == 1
    assert len(said) == 1
    assert f"pids.max={most} of this container's control group ({folder})" in said[0]
    assert not (tmp_path / "runs").exists()


OTHER_USER = """
import os, resource
from podrl.runtime.container_limits import LimitReached, check_threads
resource.setrlimit(resource.RLIMIT_NPROC, (20, 20))
os.setuid(61234)
try:
    check_threads({"NPROC": "2"}, 2)
except LimitReached as error:
    print(error)
"""


def test_a_user_who_may_have_no_more_is_told_so():
    if os.geteuid():
        pytest.skip("another user's limit wants root")
    result = subprocess.run([sys.executable, "-c", OTHER_USER], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "RLIMIT_NPROC=20 for all that this user runs" in result.stdout
