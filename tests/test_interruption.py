"""Signals; tests/test_launcher.py and tests/test_resume.py send real ones to real runs."""

import os
import signal

import pytest

from podrl import interruption
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


@pytest.mark.parametrize(("signum", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_second_later_ends_the_process(signum, error, monkeypatch):
    monkeypatch.setattr(interruption, "_SAME_S", 0.0)
    with interruptible() as stop:
        stop.take(signal.SIGTERM, None)
        with pytest.raises(error):
            os.kill(os.getpid(), signum)


def test_handlers_are_given_back():
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    with interruptible():
        pass
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before
