"""What ends the process of a run, and what that looks like."""

import os
import signal
import subprocess
import sys

import pytest

from podrl import train
from podrl.commands import benchmark, evaluate
from podrl.config.commandline import parse_command_line
from podrl.runtime.process_exit import contained, describe_error
from tests.processes import ROOT

CATCH = str(ROOT / "configs/impala_catch.py")


def end_by_sys():
    sys.exit()


def end_by_os():
    os._exit(0)


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("end", "said"),
    [(end_by_sys, "sys.exit()"), (end_by_os, "os._exit(0)"), (interrupt, "KeyboardInterrupt")],
)
def test_a_run_that_is_ended_from_within_has_failed(end, said, monkeypatch, caplog):
    monkeypatch.setattr(train, "train", lambda *_, **__: end())
    monkeypatch.setattr(train, "leave", lambda code: None)  # It would, for threads that other tests have left.
    command = parse_command_line(["", "--config", str(ROOT / "configs/impala_catch.py")])
    assert train.main(command) == 1
    assert f"The run failed: What the run called tried to end the process: {said}" in caplog.text


def take_ctrl_c():
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(("end", "said"), [(end_by_sys, "sys.exit()"), (end_by_os, "os._exit(0)")])
def test_so_has_an_evaluation_or_a_benchmark(end, said, monkeypatch, capsys):
    for tool in (evaluate, benchmark):
        monkeypatch.setattr(tool, "run", lambda _: end())
    assert evaluate.main(["", "--workdir", "run"]) == 1
    assert f"error: What the run called tried to end the process: {said}" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="tried to end the process"):
        benchmark.main(["", "--config", CATCH])


def test_ctrl_c_ends_an_evaluation_whatever_an_environment_asked_for(monkeypatch):
    monkeypatch.setattr(evaluate, "run", lambda _: take_ctrl_c())
    before = signal.getsignal(signal.SIGINT)
    assert evaluate.main(["", "--workdir", "run"]) == 130
    assert signal.getsignal(signal.SIGINT) is before


def test_a_thread_of_an_environments_own_ends_it_as_failed():
    program = (
        "import os, threading, time\n"
        "from podrl.runtime.process_exit import contained\n"
        "with contained():\n"
        "    threading.Thread(target=lambda: os._exit(0), name='viewer').start()\n"
        "    time.sleep(60)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "Thread 'viewer' called os._exit(0): the run fails." in result.stderr


def test_a_fork_may_end_as_it_likes():
    with contained():
        child = os.fork()
        if child == 0:
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_python_has_its_own_again_afterwards():
    before = os._exit
    with pytest.raises(RuntimeError, match=r"sys\.exit\('over'\)"), contained():
        sys.exit("over")
    assert os._exit is before
    assert describe_error(SystemExit(3)) == "sys.exit(3)"
