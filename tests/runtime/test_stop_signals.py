"""Signals before a run's own handlers stand, and in the processes that serve a run; real ones, to real processes."""

import contextlib
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import time

import pytest

from podrl.launch.signals import StopSignals
from podrl.runtime.interruption import interruptible
from podrl.runtime.stop_signals import NOTICES, Urgency, held_back
from tests.multihost.jobs import free_address
from tests.processes import LIMIT_S, ROOT, command, environment, running, wait_for

CATCH = ("--config", ROOT / "configs/impala_catch.py")
STOPPING = [signal.SIGTERM, signal.SIGHUP, *NOTICES]
NAMESPACE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


def child_of(pid):
    """The only child of a process, once it has one."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    wait_for(lambda: children.read_text().split())
    return int(children.read_text().split()[0])


def catches(pid, signum):
    """Whether the process has a handler for the signal."""
    with contextlib.suppress(OSError):
        (caught,) = re.findall(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.M)
        return bool(int(caught, 16) >> (signum - 1) & 1)
    return False


@contextlib.contextmanager
def as_first_process(*arguments, cwd):
    """The command as number 1 of a PID namespace, as in a container, and its number out here."""
    if subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("making PID namespaces wants root")
    pipe = subprocess.PIPE
    within = [*NAMESPACE, *command(*arguments)]
    with subprocess.Popen(within, cwd=cwd, env=environment(), stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process, child_of(process.pid)
        finally:
            process.kill()


@pytest.mark.parametrize("flags", [(), ("--local_processes", 2)], ids=["process", "launcher"])
def test_the_first_process_of_a_container_ends_at_once_while_it_imports(flags, tmp_path):
    with as_first_process(*CATCH, *flags, cwd=tmp_path) as (process, pid):
        wait_for(lambda: catches(pid, signal.SIGTERM), process)
        os.kill(pid, signal.SIGTERM)
        _, stderr = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, stderr) == (75, "podrl: stopped by SIGTERM, with no update in progress.\n")


@pytest.mark.slow
def test_and_while_it_waits_for_others(tmp_path):
    joining = ("--coordinator", free_address(), "--process_count", 2, "--process_index", 0)
    with as_first_process(*CATCH, *joining, cwd=tmp_path) as (process, pid):
        said = ""
        while "Waiting for process 1" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        os.kill(pid, signal.SIGTERM)
        assert process.wait(timeout=LIMIT_S) == 75
        assert process.stderr.read().endswith("podrl: stopped by SIGTERM, with no update in progress.\n")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), *((signum, 75) for signum in STOPPING)])
def test_each_signal_has_its_exit_code_from_the_first_line(signum, code, tmp_path):
    with running(*CATCH, cwd=tmp_path, anew=True) as process:
        wait_for(lambda: catches(process.pid, signal.SIGXCPU), process)  # The last that is set.
        process.send_signal(signum)
        _, stderr = process.communicate(timeout=LIMIT_S)
    assert process.returncode == code
    said = "interrupted before anything was begun" if code == 130 else f"stopped by {signum.name}"
    assert re.fullmatch(rf"podrl: {said}.*\.\n", stderr), stderr


STUCK = """
import ctypes, os, signal, sys
from podrl.runtime import stop_signals
stop_signals.stand()
stop_signals.raise_ctrl_c()
mutex = ctypes.create_string_buffer(64)
with stop_signals.ending_waits(lambda said, code: print(said, code, flush=True)):
    print("ready", flush=True)
    for _ in range(2):  # The second never returns, nor for a signal.
        ctypes.CDLL(None).pthread_mutex_lock(mutex)
"""


def test_a_call_to_c_that_does_not_return_is_ended_too():
    with subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=LIMIT_S) == 75
            assert process.stdout.read() == "told to stop by SIGTERM 75\n"
        finally:
            process.kill()


SERVANT = """
import sys
sys.stdin.readline()  # As one that has not come to `ignore` yet.
from podrl.runtime import stop_signals
stop_signals.ignore()
print("alive", flush=True)
sys.stdin.readline()
print("well", flush=True)
"""


def test_a_process_that_serves_a_run_ignores_them_from_its_start():
    pipe = subprocess.PIPE
    with held_back():
        process = subprocess.Popen([sys.executable, "-c", SERVANT], stdin=pipe, stdout=pipe, text=True, cwd=ROOT)
    with process:
        for expected in ("alive\n", "well\n"):
            for signum in (signal.SIGINT, *STOPPING):
                process.send_signal(signum)
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == expected
    assert process.returncode == 0


@pytest.mark.parametrize("told", ["USR1 TERM", "TERM USR1"])
def test_what_a_launcher_makes_of_a_notice_is_no_first_request_to_stop(told, monkeypatch):
    """A scheduler tells both, and sends SIGTERM to both some time later."""
    now_s, urgency = 100.0, Urgency()
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    for name in told.split():
        assert not urgency.is_second(signal.Signals[f"SIG{name}"])
        now_s += 0.3
    now_s += 100
    assert not urgency.is_second(signal.SIGTERM)
    now_s += 10
    assert not urgency.is_second(signal.SIGUSR1)
    assert urgency.is_second(signal.SIGTERM)


@pytest.mark.parametrize("catch", [interruptible, StopSignals])
@pytest.mark.parametrize("signum", NOTICES)
class TestNotices:
    def test_stop_a_run_and_hurry_nothing(self, catch, signum, monkeypatch):
        clock = iter(range(100, 1000, 10))
        with catch() as stop:
            monkeypatch.setattr(time, "monotonic", lambda: next(clock))
            for told in (signum, signum, signal.SIGTERM, signum):
                os.kill(os.getpid(), told)  # Were it taken for a second, `interruptible` would end this process.
            monkeypatch.undo()
            assert stop.exit_code == 75
            assert not getattr(stop, "urgent", False)

    def test_are_those_of_a_user_who_has_a_handler(self, catch, signum):
        came = []
        before = signal.signal(signum, lambda *_: came.append(signum))
        try:
            with catch() as stop:
                os.kill(os.getpid(), signum)
                assert stop.exit_code is None
            os.kill(os.getpid(), signum)
        finally:
            signal.signal(signum, before)
        assert came == [signum] * 2

    def test_are_those_of_an_environment_that_takes_them(self, catch, signum):
        came = []
        before = signal.getsignal(signum)
        try:
            with catch() as stop:
                signal.signal(signum, lambda *_: came.append(signum))
                os.kill(os.getpid(), signum)
                assert stop.exit_code is None
            os.kill(os.getpid(), signum)  # Nor does the end of the run take them away.
        finally:
            signal.signal(signum, before)
        assert came == [signum] * 2

    def test_are_given_back(self, catch, signum):
        before = signal.getsignal(signum)
        with catch():
            assert signal.getsignal(signum) != before
        assert signal.getsignal(signum) == before
