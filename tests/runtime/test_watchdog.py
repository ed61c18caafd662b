"""Threads that stand still, in real processes: the watchdog ends them, and says who did what. A whole run that does:
tests/faults/test_disk.py.
"""

import signal
import subprocess
import sys
import time

import pytest

from podrl.runtime.waiting import Patience
from podrl.runtime.watchdog import STALLED

HEAD = """
import ctypes, sys, threading, time
from podrl.runtime.interruption import interruptible
from podrl.runtime.ledger import Ledger
from podrl.runtime.watchdog import Watched, Watchdog

def watched(ledger, doing="the learner waits for nobody"):
    return Watched(ledger=ledger, doing=lambda: doing, is_alive=lambda: True)

ledger = Ledger("learner")
"""


def start(script):
    return subprocess.Popen(
        [sys.executable, "-c", HEAD + script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process, timeout_s=60):
    out, err = process.communicate(timeout=timeout_s)
    return process.returncode, out, err


def test_a_thread_that_stands_still_ends_the_process_with_the_stacks_of_all():
    code, out, err = finish(
        start("""
def stuck():
    with Ledger("other").spend("act"):
        a_call_that_does_not_return()
def a_call_that_does_not_return():
    threading.Event().wait()
threading.Thread(target=stuck, name="actor 7", daemon=True).start()
with Watchdog(1.0, on_stall=lambda: print("terminal given back")) as watchdog:
    watchdog.watch(watched(ledger, "learner waits for actor 7"))
    time.sleep(60)
""")
    )
    assert code == STALLED
    assert "learner has done nothing for 1 s" in err
    assert "learner waits for actor 7" in err
    assert "actor 7:" in err
    assert "a_call_that_does_not_return" in err
    assert "MainThread:" in err
    assert "terminal given back" in out


def test_a_thread_that_moves_however_little_is_left_alone():
    code, _, err = finish(
        start("""
with Watchdog(0.5) as watchdog:
    watchdog.watch(watched(ledger))
    for _ in range(10):
        with ledger.spend("learn"):
            time.sleep(0.2)
""")
    )
    assert (code, err) == (0, "")


def test_compilation_waits_with_a_limit_and_threads_that_have_ended_are_not_counted():
    code, _, err = finish(
        start("""
with Watchdog(0.5) as watchdog:
    watchdog.watch(watched(ledger))
    watchdog.watch(Watched(ledger=Ledger("actor 0"), doing=lambda: "", is_alive=lambda: False))
    for bucket in ("compile", "wait_rollouts"):
        with ledger.spend(bucket):
            time.sleep(1.0)
""")
    )
    assert (code, err) == (0, "")


def test_a_call_that_never_lets_python_run_again_is_ended_too():
    code, _, err = finish(
        start("""
with Watchdog(1.0) as watchdog:
    watchdog.watch(watched(ledger))
    time.sleep(0.3)
    ctypes.PyDLL(None).sleep(60)
""")
    )
    assert code == 1
    assert "Timeout" in err
    assert "Current thread" in err or "Thread 0x" in err


@pytest.mark.slow
def test_a_process_that_was_paused_goes_on():
    process = start("""
with interruptible(), Watchdog(1.0) as watchdog:
    watchdog.watch(watched(ledger))
    print("ready", flush=True)
    for _ in range(20):
        with ledger.spend("learn"):
            time.sleep(0.1)
""")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTSTP)
    time.sleep(4)
    assert "T" in state(process.pid)
    process.send_signal(signal.SIGCONT)
    code, _, err = finish(process)
    assert (code, err) == (0, "")


def state(pid):
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rsplit(")", 1)[1].split()[0]


def test_time_in_which_the_process_was_stopped_does_not_use_up_patience(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    patience = Patience(10.0)
    clock[0] += 1.0
    assert patience.left_s() == 9.0
    clock[0] += 3600.0
    assert patience.left_s() == 7.0
    for _ in range(10):
        clock[0] += 1.0
        patience.left_s()
    assert patience.left_s() == 0.0
