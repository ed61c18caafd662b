"""The launcher and the training together: a lost process costs time, and nothing else."""

import json
import os
from pathlib import Path
import signal
import subprocess

import pytest

from tests.faults.commands import SCRIPTED
from tests.faults.sameness import assert_same
from tests.processes import checkpoints, command, environment, finish, wait_for

TWO = (*SCRIPTED, "--local_processes", 2, "--workdir", "run")


def children(parent: int) -> list[int]:
    """Members by their number."""
    found = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return sorted(map(int, found))


@pytest.mark.parametrize("lost", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_process_is_started_again_and_nothing_is_missing(tmp_path, lost):
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
    straight = subprocess.run(
        command(*TWO), cwd=tmp_path / "straight", env=environment(), capture_output=True, text=True
    )
    assert straight.returncode == 0, straight.stderr
    assert "[Gloo]" not in straight.stdout
    gate = tmp_path / "gate"  # Until it is there, both stand still after the boundary.
    hold = json.dumps({"only_in_pool": 3, "hang_at_step": 1, "hang_until": str(gate)})
    launcher = subprocess.Popen(
        command(*TWO, "--max_restarts", 2, "--restart_pause_s", 0.1),
        cwd=tmp_path / "killed",
        env={**environment(), "SCRIPTED_OPTIONS": hold},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: checkpoints(tmp_path / "killed/run") == [4], launcher)
        os.kill(children(launcher.pid)[lost], signal.SIGKILL)
        gate.touch()
        said = finish(launcher)
    finally:
        launcher.kill()
        launcher.communicate()
    assert launcher.returncode == 0, said
    assert f"Process {lost} (" in said
    assert ") is gone: it was killed, or crashed." in said
    assert f"p{lost} was killed by SIGKILL, at update 4: restart 1 of 2" in said
    assert said.count("restart") == 1
    assert "Goes on with the run in this folder, after update 4" in said
    assert_same(tmp_path / "killed/run", tmp_path / "straight/run", SCRIPTED)
