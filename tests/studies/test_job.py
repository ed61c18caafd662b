"""How a run's job is watched and ended: real processes, small ones."""

import os
from pathlib import Path
import signal
import sys
import threading

import pytest

from podrl.config.config import ConfigError
from podrl.launch.signals import StopSignals
from podrl.studies.job import RunCommand, last_word, run_job
from tests.processes import LIMIT_S, wait_for

HEED = """
import pathlib, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
pathlib.Path('ready').write_text(str(__import__('os').getpid()))
signal.pause()
"""


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(code, *, stop=None, has_enough=lambda: False, silence_s=LIMIT_S):
    command = RunCommand(command=[sys.executable, "-c", code], environ={"SAID": "so"})
    return run_job(command, Path("job.log"), stop or StopSignals(), has_enough=has_enough, silence_s=silence_s)


def test_a_job_ends_by_itself():
    ending = run("import os; print('first'); print(os.environ['SAID'])")
    assert (ending.code, ending.had_enough, ending.text) == (0, False, "so")
    assert Path("job.log").read_text() == "first\nso\n"


def test_a_job_that_has_run_for_long_enough_is_ended_in_good_order():
    ending = run(HEED, has_enough=Path("ready").exists)
    assert (ending.code, ending.had_enough) == (75, True)


def test_a_failure_is_told_by_its_error_and_not_by_what_came_last():
    ending = run("print('old'); print('ValueError: so it is'); print('bye'); raise SystemExit(3)")
    assert (ending.code, ending.text, ending.was_cut) == (3, "ValueError: so it is", False)


def test_only_what_this_job_said_counts():
    Path("job.log").write_text("ValueError: of before\n")
    assert run("print('fine')").text == "fine"
    assert last_word(Path("job.log")) == "ValueError: of before"


def test_a_job_that_says_nothing_is_ended():
    ending = run(HEED, silence_s=0.5)
    assert ending.code == 124
    assert ending.text.startswith("it said nothing for 0.5 s; see job.log")


def test_a_killed_job_was_cut():
    ending = run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert ending.code == -signal.SIGKILL
    assert ending.was_cut


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_signals_are_passed_on(signum, code):
    stop = StopSignals()
    teller = threading.Thread(target=lambda: (wait_for(Path("ready").exists), stop.take(signum)))
    teller.start()
    ending = run(HEED, stop=stop)
    teller.join(LIMIT_S)
    assert (ending.code, ending.was_cut) == (code, True)


def test_a_job_does_not_outlive_its_study():
    """A second process has the job, and is killed."""
    starter = f"""
from pathlib import Path
from podrl.launch.signals import StopSignals
from podrl.studies.job import RunCommand, run_job
command = RunCommand(command=[{sys.executable!r}, "-c", {HEED!r}])
run_job(command, Path("job.log"), StopSignals(), has_enough=lambda: False, silence_s=600)
"""
    pid = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-c", starter])
    wait_for(lambda: Path("ready").exists() and bool(Path("ready").read_text()))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    job = Path("/proc") / Path("ready").read_text()
    wait_for(lambda: not job.exists() or "(zombie)" in (job / "status").read_text())


def test_a_program_that_is_not_there_is_a_mistake():
    command = RunCommand(command=["absent-program"])
    with pytest.raises(ConfigError, match="absent-program cannot be started: No such file"):
        run_job(command, Path("job.log"), StopSignals(), has_enough=lambda: False, silence_s=1)
