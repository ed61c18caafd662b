"""Signals; tests/launch/test_launcher.py and tests/faults/ send real ones to real runs."""

import _signal
import asyncio
import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from podrl.launch.signals import StopSignals
from podrl.runtime.interruption import interruptible

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGHUP, 75)]


@pytest.mark.parametrize(("signum", "code"), SIGNALS)
def test_the_first_signal_is_noted_and_decides_the_exit_code(signum, code):
    with interruptible() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), signum)
        assert stop.is_set()
        assert stop.exit_code == code


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_second_at_once_counts_as_the_first(signum):
    with interruptible() as stop:
        os.kill(os.getpid(), signum)
        os.kill(os.getpid(), signum)
        assert stop.is_set()


STUCK = """
import sys, threading, time
clock = 100.0
time.monotonic = lambda: clock
from podrl.runtime.interruption import interruptible
threading.Thread(target=time.sleep, args=(60,)).start()
with interruptible() as stop:
    print("ready", flush=True)
    while not stop.is_set():
        time.sleep(0.01)
    print("told", flush=True)
    sys.stdin.readline()
    clock += 1.2
    print("later", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_second_later_ends_the_process_whatever_is_stuck(signum, code):
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", STUCK], stdin=pipe, stdout=pipe, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signum)
        assert process.stdout.readline() == "told\n"
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "later\n"
        process.send_signal(signum)
        assert process.wait(timeout=10) == code
    finally:
        process.kill()


WRITING = """
import io, os, signal, sys
from podrl.runtime.interruption import interruptible, leave
class Slow(io.RawIOBase):
    def writable(self):
        return True
    def write(self, data):
        os.kill(os.getpid(), signal.SIGTERM)
        return len(data)
sys.stdout = sys.stderr = io.TextIOWrapper(io.BufferedWriter(Slow()), line_buffering=True)
with interruptible() as stop:
    print("a line", file=sys.stderr, flush=True)
    os.write(1, f"{stop.exit_code}".encode())
signal.signal(signal.SIGTERM, lambda signum, frame: leave(5))
print("a line", flush=True)
"""


def test_a_signal_may_come_while_a_line_is_written():
    done = subprocess.run([sys.executable, "-c", WRITING], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (5, "75")


def test_a_second_hangup_hurries_nothing(monkeypatch):
    """A terminal and its shell may both send one."""
    clock = iter([100.0, 110.0])
    with interruptible() as stop:
        monkeypatch.setattr(time, "monotonic", lambda: next(clock, 120.0))
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
        monkeypatch.undo()
        assert stop.exit_code == 75


def test_a_hangup_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        for catch in (interruptible, StopSignals):
            with catch() as stop:
                if catch is interruptible:  # No environment is in the other's process.
                    signal.signal(signal.SIGHUP, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGHUP)
                assert stop.exit_code is None
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP])
def test_handlers_are_given_back(signum):
    before, function = signal.getsignal(signum), signal.signal
    with interruptible():
        pass
    assert (signal.getsignal(signum), signal.signal) == (before, function)


class TestHandlersOfOthers:
    """Of environments and libraries, in any thread and any way: podrl's stay, and who tried is named."""

    def register(self, signum):
        signal.signal(signum, lambda *_: None)

    def register_past_us(self, signum):
        _signal.signal(signum, lambda *_: None)

    def ignore(self, signum):
        signal.signal(signum, signal.SIG_IGN)

    def ask_the_loop(self, signum):
        loop = asyncio.new_event_loop()
        try:
            loop.add_signal_handler(signum, lambda: None)
        finally:
            loop.remove_signal_handler(signum)
            loop.close()

    def in_a_thread(self, signum):
        thread = threading.Thread(target=self.register, args=(signum,))
        thread.start()
        thread.join()

    def block(self, signum):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signum])

    def register_in_c(self, signum):
        assert ctypes.CDLL(None).signal(int(signum), ctypes.c_void_p(1)) != -1  # SIG_IGN.

    @pytest.mark.parametrize(("signum", "code"), SIGNALS)
    @pytest.mark.parametrize(
        ("how", "is_named"),
        [
            ("register", True),
            ("register_past_us", True),
            ("ignore", True),
            ("ask_the_loop", True),
            ("in_a_thread", True),
            ("block", False),
            ("register_in_c", False),
        ],
    )
    def test_do_not_keep_a_run_from_being_stopped(self, how, is_named, signum, code, caplog):
        with interruptible() as stop:
            getattr(self, how)(signum)
            assert stop.code() == 0  # Asked at least once a second.
            os.kill(os.getpid(), signum)
            assert stop.code() == code
        said = re.findall(rf"{re.escape(__file__)}, line \d+ asked for (SIG\w+), which podrl keeps", caplog.text)
        assert set(said) == ({signum.name} if is_named else set())

    def test_of_many_environments_are_told_once(self, caplog):
        with interruptible():
            for _ in range(100):
                self.register(signal.SIGTERM)
        assert caplog.text.count("asked for SIGTERM") == 1

    def test_for_other_signals_are_theirs(self):
        before = signal.getsignal(signal.SIGUSR1)
        with interruptible():
            signal.signal(signal.SIGUSR1, self.register)
            assert signal.getsignal(signal.SIGUSR1) == self.register
        signal.signal(signal.SIGUSR1, before)
