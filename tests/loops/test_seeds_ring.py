"""Runs of several seeds with replay: what is saved of their rings, and from what they resume."""

import itertools
import shutil
import time

import jax
import numpy as np
import pytest

from podrl import train
from podrl.runs import checkpoint
from podrl.runs.checkpoint_arrays import whole_steps
from podrl.runs.checkpoint_replay import OlderReplays, has_replay
from tests.loops.seeds import FIRST, NUM, check_same, folders, seeds_config, words

pytestmark = pytest.mark.usefixtures("compiled_once")


def watch_deletions(run, patch):
    """Returns a list that gets the newest update whose ring all seeds have, after each deletion of rings."""
    delete, check, calls, common = OlderReplays.delete, checkpoint.check_index, itertools.count(1), []

    def check_slowly(*facts):
        if next(calls) % NUM == 0:  # The last of the seeds.
            time.sleep(0.5)
        check(*facts)

    def delete_and_look(self, steps, newest):
        delete(self, steps, newest)
        rings = [{step for step in whole_steps(own) if has_replay(own, step)} for own in folders(run)]
        common.append(max(set.intersection(*rings), default=0))

    patch.setattr(checkpoint, "check_index", check_slowly)
    patch.setattr(OlderReplays, "delete", delete_and_look)
    return common


@pytest.mark.slow
@pytest.mark.parametrize(
    "ring",
    [
        {"agent": "impact", "replay__batches": 3, "replay__uses": 2},
        {
            **{"agent": "r2d2", "agent__starts": "rows", "agent__burn_in": 0, "agent__length": 1},
            **{"replay__capacity": 640, "replay__batch": 64, "replay__groups": 8, "replay__min_steps": 400},
            **{"actors__num_envs": 32, "total_env_steps": 12 * 32 * 4},  # Four for each group, on eight devices.
        },
    ],
    ids=["batches", "sequences"],
)
def test_stopping_anywhere_and_continuing_changes_nothing(tmp_path, ring, monkeypatch):
    with monkeypatch.context() as patch:
        common = watch_deletions(tmp_path / "straight", patch)
        whole = train.train(seeds_config(**ring), workdir=str(tmp_path / "straight"))
    # After each deletion a kill would leave all seeds the rings of one update, that of the save before at least.
    assert [min(common[at : at + NUM]) for at in range(NUM, 3 * NUM, NUM)] == [4, 8]
    stops = iter([0] * 7 + [75] * 99)
    train.train(seeds_config(**ring), workdir=str(tmp_path / "run"), stop_code=lambda: next(stops))
    resumed = train.train(seeds_config(**ring), workdir=str(tmp_path / "run"))
    check_same(tmp_path / "run", tmp_path / "straight")
    for own in folders(tmp_path / "run"):
        assert [step for step in whole_steps(own) if has_replay(own, step)] == [8, 12]
    for one, other in zip(whole.seeds, resumed.seeds, strict=True):
        jax.tree.map(np.testing.assert_array_equal, words(one.state), words(other.state))
    shutil.rmtree(tmp_path / f"run/seed-{FIRST + 1}/checkpoints/12")  # As if it had been cut short.
    train.train(seeds_config(**ring), workdir=str(tmp_path / "run"))
    check_same(tmp_path / "run", tmp_path / "straight")
