"""Notebooks: their streams are no files, and their classes are in no module."""

import ast
import subprocess
import sys

import gymnasium
import pytest

from podrl.config.config import ConfigError, EnvConfig
from podrl.envs.sources.gymnasium import make_spec
from tests.processes import ROOT

PROGRAM = """
import io, sys
from podrl.launch.members import Member, run_members
from podrl.launch.signals import StopSignals

class Cell(io.TextIOBase):  # As ipykernel's OutStream: text without a buffer, whose descriptor is not the cell's.
    text = ""

    def fileno(self):
        if {descriptor} is None:
            raise io.UnsupportedOperation("fileno")
        return {descriptor}

    def write(self, text):
        self.text += text
        return len(text)

program = "import sys; print('gr\\u00fc\\u00dfe'); print('oh', file=sys.stderr)"
environ = {{"PYTHONIOENCODING": "utf-8"}}
members = [Member(name=f"p{{i}}", command=(sys.executable, "-c", program), environ=environ) for i in range({count})]
sys.stdout = sys.stderr = Cell()
with StopSignals() as stop:
    assert run_members(members, stop).code == 0
sys.__stdout__.write(ascii(sys.stdout.text))
"""


@pytest.mark.parametrize("descriptor", [None, 1], ids=["without", "with"])
@pytest.mark.parametrize("count", [1, 2])
def test_what_members_print_is_shown_in_the_cell(count, descriptor):
    code = PROGRAM.format(count=count, descriptor=descriptor)
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    said = [f"[p{index}] {line}" for index in range(count) for line in ("grüße", "oh")]
    assert sorted(ast.literal_eval(ended.stdout).splitlines()) == sorted(said)


class Mine(gymnasium.Env):
    """Stands for a class of a notebook."""


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"id": "__main__:Mine"}, "env.id='__main__:Mine' is"),
        ({"id": "Mine-v0"}, "env.id='Mine-v0' is"),
        ({"id": "CartPole-v1", "wrappers": ("__main__:Mine",)}, "The wrapper '__main__:Mine' is"),
        ({"id": "CartPole-v1", "training_wrappers": ("__main__:Mine",)}, "The wrapper '__main__:Mine' is"),
    ],
)
def test_workers_are_other_processes_than_a_notebook(keys, named, monkeypatch):
    monkeypatch.setattr(Mine, "__module__", "__main__")
    gymnasium.register("Mine-v0", entry_point=Mine)
    try:
        with pytest.raises(ConfigError) as error:
            make_spec(EnvConfig(source="gymnasium", workers=2, **keys))
    finally:
        del gymnasium.registry["Mine-v0"]
    assert str(error.value) == (
        f"{named} defined in this program or notebook itself (__main__), and env.workers are other processes, which "
        "cannot import that. Move it into a module, as 'my_module:Name', or use env.workers=0."
    )
