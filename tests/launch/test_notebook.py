"""Notebooks: their streams are no files, and their classes are in no module."""

import io
import sys

import gymnasium
import pytest

from podrl.config import ConfigError, EnvConfig
from podrl.envs.gymnasium import make_spec
from podrl.launch.members import Member, run_members
from podrl.launch.signals import StopSignals


class Cell(io.TextIOBase):
    """As ipykernel's OutStream: text without a buffer, whose descriptor is the kernel's terminal and not the cell."""

    def __init__(self, descriptor):
        self.text, self._descriptor = "", descriptor

    def fileno(self):
        if self._descriptor is None:
            raise io.UnsupportedOperation("fileno")
        return self._descriptor

    def write(self, text):
        assert isinstance(text, str)
        self.text += text
        return len(text)


@pytest.mark.parametrize("descriptor", [None, 1], ids=["without", "with"])
@pytest.mark.parametrize("count", [1, 2])
def test_what_members_print_is_shown_in_the_cell(monkeypatch, count, descriptor):
    program = "import sys; print('gr\\u00fc\\u00dfe'); print('oh', file=sys.stderr)"
    members = [
        Member(name=f"p{index}", command=(sys.executable, "-c", program), environ={"PYTHONIOENCODING": "utf-8"})
        for index in range(count)
    ]
    out, err = Cell(descriptor), Cell(descriptor)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with StopSignals() as stop:
        ending = run_members(members, stop)
    assert ending.code == 0
    for index in range(count):
        assert f"[p{index}] grüße\n" in out.text
        assert f"[p{index}] oh\n" in out.text + err.text


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
