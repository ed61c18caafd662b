"""What podrl says of an environment that breaks the interface in mid-run, ends the process, or cannot be closed."""

import asyncio
import re
import subprocess
import sys
import threading

import numpy as np
import pytest

from podrl.config.config import ConfigError
from podrl.envs.sources.gymnasium import make_pool, make_spec
from podrl.envs.workers import processes
from podrl.envs.workers.batch import EnvFailure
from podrl.runtime.process_exit import contained
from tests.envs.test_gymnasium import opened, own, step
from tests.processes import ROOT

FAULTY = "tests.envs.faulty:"
FAULTS = [
    ("none", ": step() must return a number as reward; found type NoneType."),
    ("array", ": step() must return a number as reward; found float64[1]."),
    ("complex", ": step() must return a number as reward; found type complex."),
    ("text", ": step() must return a number as reward; found type str."),
    ("short", ": step() must return (observation, reward, terminated, truncated, info); found a tuple of 4."),
    ("nothing", ": step() must return (observation, reward, terminated, truncated, info); found type NoneType."),
    ("end", ": step() must return bools as terminated and truncated; found None and False."),
    (
        "wide",
        ": step() returned an observation of float32[3], which does not fit into Box(0.0, 1.0, (2,), float32): ",
    ),
    ("scalar", ": step() returned an observation of type float32, which does not fit into Box("),
    ("words", ": step() returned an observation of type str, which does not fit into Box("),
    ("stop", " failed in step: StopIteration"),
    ("exit", " failed in step: sys.exit()"),
    ("window", " failed in step: sys.exit('window closed')"),
]
OF_RESETS = [
    ("short", ": reset() must return (observation, info), info a dictionary; found a tuple of 1."),
    ("nothing", ": reset() must return (observation, info), info a dictionary; found type NoneType."),
    ("wide", ": reset() returned an observation of float32[3], which does not fit into Box("),
]


def play(config, seeds=(40, 41, 42)):
    """What a pool's failure says, at the latest after eight steps."""
    with opened(config, seeds) as (pool, _):
        try:
            for _ in range(8):
                step(pool, np.zeros(len(seeds), np.int32))
        except EnvFailure as error:
            return str(error)
    raise AssertionError("It did not fail.")


@pytest.mark.parametrize(("how", "said"), FAULTS)
def test_a_wrong_return_in_mid_run_names_the_environment_and_what_was_expected(how, said):
    assert play(own(f"{FAULTY}Faulty", how=how)).startswith(f"Environment 0 of the pool (seed 40){said}")


@pytest.mark.parametrize(("how", "said"), OF_RESETS)
def test_so_does_one_of_a_later_reset(how, said):
    assert play(own(f"{FAULTY}Faulty", how=how, when="reset", at=2)).startswith(
        f"Environment 0 of the pool (seed 40){said}"
    )


def test_workers_say_the_same():
    for how, said in (FAULTS[0], FAULTS[7], FAULTS[11]):
        config = own(f"{FAULTY}Faulty", how=how, workers=2)
        assert play(config).startswith(f"Environment 0 of the pool (seed 40){said}")


@pytest.mark.parametrize("how", ["interrupt", "generator", "os_exit"])
def test_what_would_end_the_process_is_an_error_of_its_environment(how):
    """In the thread of an actor, where Ctrl-C never raises."""
    said = {"interrupt": "KeyboardInterrupt", "generator": "GeneratorExit", "os_exit": "os._exit(0)"}[how]
    found = []
    with contained():
        thread = threading.Thread(target=lambda: found.append(play(own(f"{FAULTY}Faulty", how=how))), name="actor 0")
        thread.start()
        thread.join()
    assert found == [f"Environment 0 of the pool (seed 40) failed in step: {said}"]


def test_a_worker_that_hangs_in_reset_is_named():
    config = own(f"{FAULTY}Faulty", how="hang", when="reset", at=1, workers=2, worker_timeout_s=1)
    pool = make_pool(config, seeds=[1, 2, 3], num_threads=1)
    try:
        with pytest.raises(TimeoutError, match=r"0 to 1 of the pool has not answered .*with environment 0"):
            pool.reset()
    finally:
        pool.close()


@pytest.mark.parametrize(("name", "error"), [("NeedsLoop", EnvFailure), ("NeedsAlarm", ConfigError)])
def test_what_works_in_a_main_thread_only_is_sent_to_workers(name, error):
    config = own(FAULTY + name)
    asyncio.set_event_loop(loop := asyncio.new_event_loop())  # Other tests may have closed that of this thread.
    make_spec(config)  # In this thread it works.
    loop.close()
    found = []

    def make():
        with pytest.raises(error, match=r"It was called in a thread; set env\.workers=1 or more") as caught:
            make_pool(config, seeds=[1], num_threads=1)
        found.append(str(caught.value))

    thread = threading.Thread(target=make, name="actor 0")
    thread.start()
    thread.join()
    assert len(found) == 1
    with opened(own(FAULTY + name, workers=1), [1]) as (pool, _):
        step(pool, [0])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_environment_that_raises_in_close_is_logged(workers, caplog, capfd):
    config = own(f"{FAULTY}CloseRaises", workers=workers)
    make_spec(config)
    with opened(config, [7, 8]) as (pool, _):
        step(pool, [0, 0])
    said = caplog.text + capfd.readouterr().err
    assert f"env.id='{FAULTY}CloseRaises' failed in close: RuntimeError: display was closed already." in said
    for index, seed in enumerate((7, 8)):
        assert f"Environment {index} of the pool (seed {seed}) failed in close: RuntimeError: display" in said


def test_a_worker_that_hangs_in_close_is_named_and_ended(caplog, monkeypatch):
    monkeypatch.setattr(processes, "_CLOSING_S", 0.5)
    with opened(own(f"{FAULTY}CloseHangs", workers=1), [7, 8]) as (pool, _):
        for _ in range(6):
            step(pool, [0, 0])
    assert "environments 0 to 1 of the pool, in close busy with environment 1, has not ended after" in caplog.text


CRASH = """
import faulthandler, sys, threading
import numpy as np
from podrl.envs.workers.batch import EnvBatch
from tests.envs.faulty import Faulty
faulthandler.enable()
batch = EnvBatch([lambda: Faulty("crash")] * 3, [70, 71, 72])
batch.reset()
def play():
    for _ in range(9):
        batch.step(np.zeros(3, np.int32))
threading.Thread(target=play).start()
"""


def test_the_stacks_of_a_crash_say_which_environment_was_stepping():
    result = subprocess.run([sys.executable, "-c", CRASH], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == -11
    dead = result.stderr.partition("Current thread")[2].partition("Thread 0x")[0]
    assert re.search(r'faulty.py", line \d+ in step\n.*in Environment 0 of the pool \(seed 70\)\n', dead, re.DOTALL)
