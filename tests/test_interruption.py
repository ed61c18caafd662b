"""Signals; tests/test_launcher.py and tests/faults/ send real ones to real runs."""

import os
import signal
import subprocess
import sys
import time

import pytest

from podrl.interruption import interruptible


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
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
from podrl.interruption import interruptible
threading.Thread(target=time.sleep, args=(60,)).start()
with interruptible():
    print("ready", flush=True)
    time.sleep(60)
    time.sleep(60)
"""


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_second_later_ends_the_process_whatever_is_stuck(signum, code):
    process = subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signum)
        time.sleep(1.2)
        assert process.poll() is None
        process.send_signal(signum)
        assert process.wait(timeout=10) == code
    finally:
        process.kill()


def test_handlers_are_given_back():
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    with interruptible():
        pass
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before
