"""Commands are named and started as they are there: by a clone's files, or by the program `podrl`."""

import importlib.metadata
import sys

import pytest

from podrl.config import extras, programs
from podrl.config.programs import ROOT


@pytest.mark.parametrize("program", ["podrl", "/venv/bin/podrl", str(ROOT / "podrl/__main__.py")])
def test_who_typed_podrl_reads_podrl(program, monkeypatch):
    monkeypatch.setattr(sys, "argv", [program])
    assert programs.program_of("study") == programs.typed_command("study") == "podrl study"


@pytest.mark.parametrize("program", ["tools/tpu_launch.py", "/usr/bin/pytest", "", "-c"])
def test_others_read_the_files_of_a_clone(program, monkeypatch):
    monkeypatch.setattr(sys, "argv", [program])
    assert programs.program_of("train") == "tools/tpu_launch.py"
    assert programs.typed_command("evaluate") == "python tools/evaluate.py"


def test_with_a_wheel_there_is_only_podrl(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["my_notebook.py"])
    monkeypatch.setattr(programs, "is_clone", lambda: False)
    assert programs.typed_command("record") == "podrl record"
    assert programs.start_arguments("env_worker") == ("-P", "-m", "podrl", "env_worker")
    assert programs.members_program("podrl train") == ("-P", "-m", "podrl", "train")


def test_what_is_started_is_the_file_in_a_clone():
    assert programs.start_arguments("train") == (str(ROOT / "tools/tpu_launch.py"),)
    assert programs.members_program("tools/tpu_launch.py") == ("tools/tpu_launch.py",)


def test_a_command_line_as_a_shell_takes_it():
    assert programs.shell_command(["podrl study", "--axis", "a b"]) == "podrl study --axis 'a b'"
    assert programs.shell_command(["tools/scaling_study.py", "--x=1"]) == "python tools/scaling_study.py --x=1"


def test_extras_are_installed_by_name_in_a_clone_and_by_their_packages_elsewhere(monkeypatch):
    assert extras.install_command("workers") == "pip install -e '.[workers]'"
    monkeypatch.setattr(extras, "is_clone", lambda: False)
    asked = ["absl-py>=2.1", 'grpcio>=1.70; extra == "workers"', "cryptography>=42 ; extra == 'workers'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: [*asked, 'cryptography>=42; extra == "tls"'])
    assert extras.install_command("workers") == "pip install 'grpcio>=1.70' 'cryptography>=42'"
