"""A process is known by more than its number; where it cannot be looked for, that is what is said."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from podrl.runtime import process_identity
from podrl.runtime.process_identity import has_ended, name_this_process
from tests.processes import ROOT

SAY = (
    "import json; from podrl.runtime.process_identity import name_this_process; print(json.dumps(name_this_process()))"
)


def name_of_a_child(*prefix):
    result = subprocess.run([*prefix, sys.executable, "-c", SAY], cwd=ROOT, capture_output=True, text=True)
    return json.loads(result.stdout) if result.returncode == 0 else None


def test_one_that_runs_and_one_that_has_ended():
    assert has_ended(name_this_process()) is False
    assert has_ended(name_of_a_child()) is True
    assert has_ended(name_this_process() | {"born": "1"}) is True
    for process in (10**6 + 7, 10**30, "1", None):
        assert has_ended(name_this_process() | {"process": process}) in (True, None)
    for place in ("elsewhere", "", None):
        assert has_ended(name_this_process() | {"place": place}) is None
    assert has_ended({}) is None


def test_one_that_the_system_hides_may_run(monkeypatch):
    """As `/proc` with `hidepid` hides what is another user's; some systems have none."""
    mine, gone = name_this_process(), name_of_a_child()
    place = mine["place"]
    monkeypatch.setattr(process_identity, "_place", lambda: place)
    monkeypatch.setattr(process_identity.Path, "read_text", refuse)
    assert has_ended(mine) is None
    assert has_ended(name_this_process()) is None
    assert has_ended(gone) is True
    monkeypatch.setattr(os, "kill", refuse)
    assert has_ended(mine) is None


def refuse(*_):
    raise PermissionError("hidden")


def test_under_the_proc_of_other_processes_numbers_say_nothing():
    if shutil.which("unshare") is None or (name := name_of_a_child("unshare", "--pid", "--fork")) is None:
        pytest.skip("needs unshare --pid")
    assert name["process"] == 1
    assert has_ended(name) is None
    assert name["place"] == ""
