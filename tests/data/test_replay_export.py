"""A checkpoint's replay as a data set, on runs in which every number is known."""

import numpy as np
import pytest

from tests.data.episodes import content_of
from tests.data.test_recording import read_set, record_set, trained

ENVIRONMENT = {"env_id": "scripted", "env__source": "tests.envs.scripted"}
KINDS = {
    "batches": {"agent": "impact", "replay__batches": 3, "replay__uses": 2},
    "sequences": {
        **{"agent": "r2d2", "network__core": "lstm", "agent__burn_in": 4, "agent__length": 4},
        **{"replay__capacity": 400, "replay__batch": 16, "replay__groups": 2, "replay__min_steps": 0},
        **{"replay__ratio": 2.0},
    },
}


@pytest.mark.parametrize(
    ("kind", "truncate"),
    [
        ("batches", True),
        ("sequences", False),
        pytest.param("batches", False, marks=pytest.mark.slow),
        pytest.param("sequences", True, marks=pytest.mark.slow),
    ],
)
def test_every_step_of_the_ring_is_an_episodes_or_a_parts(tmp_path, kind, truncate):
    """Observations are (row, episode, step). Environments are reopened at checkpoints, which cuts episodes."""
    boundary = 8 if kind == "batches" else 16
    run = trained(
        tmp_path / "run",
        **ENVIRONMENT,
        **KINDS[kind],
        env__options={"truncate": truncate},
        total_env_steps=(boundary + 1) * 8 * 4,
        checkpoint__every_updates=boundary // 4,
    )
    for name in ("a", "b"):
        assert record_set("--workdir", run, "--from_replay", "--out", tmp_path / name) == 0
    assert content_of(tmp_path / "a") == content_of(tmp_path / "b")
    manifest, (facts,), rows = read_set(tmp_path / "a")
    assert manifest.recordings[0].facts["policy"] == "replay"
    assert manifest.recordings[0].facts["update"] == boundary
    assert len(manifest.recordings[0].facts["replay"]) == 32
    whole = 0
    for begin, length, is_whole in zip(facts.begin, facts.length, facts.is_whole, strict=True):
        observed = rows["observation"][begin : begin + length + 1]
        steps = np.arange(length + 1) + observed[0, 2]
        np.testing.assert_array_equal(observed[:, 2], steps)
        assert (observed[:, :2] == observed[0, :2]).all()
        np.testing.assert_array_equal(rows["reward"][begin : begin + length], steps[1:])
        row, episode = observed[0, :2].astype(int)
        full = (3, 5)[(row + episode) % 2]
        ended = steps[-1] == full
        np.testing.assert_array_equal(rows["discount"][begin + length - 1], 0 if ended and not truncate else 1)
        assert is_whole <= (steps[0] == 0 and ended)
        whole += is_whole
    assert whole >= (8 if kind == "batches" else 20)
    assert (~facts.is_whole).any()
    unrolls = min(boundary, 3 if kind == "batches" else 400 // 32)
    assert facts.length.sum() > 0.6 * unrolls * 32  # The rest are resets, and what reopening cut.
    assert rows["params_version"].max() <= boundary
    behaviour = [name for name in rows if name.startswith("behaviour")]
    assert bool(behaviour) == (kind == "batches")


@pytest.mark.slow
def test_the_replays_of_two_runs_of_one_name_are_two_recordings(tmp_path):
    for where, seed in (("a", 1), ("b", 2)):
        trained(tmp_path / where / "run", **ENVIRONMENT, **KINDS["batches"], seed=seed)
    for where in ("a", "b", "a"):
        assert record_set("--workdir", tmp_path / where / "run", "--from_replay", "--out", tmp_path / "set") == 0
    first, second = read_set(tmp_path / "set")[0].recordings
    assert {name for name in first.facts if first.facts[name] != second.facts[name]} == {"replay"}


def test_a_run_without_replay_is_one_line(tmp_path, capfd):
    run = trained(tmp_path / "run", **ENVIRONMENT, total_env_steps=2 * 8 * 4)
    assert record_set("--workdir", run, "--from_replay", "--out", tmp_path / "set") == 2
    assert "--from_replay: no checkpoint in" in capfd.readouterr().err
    assert not (tmp_path / "set").exists()
    assert record_set("--from_replay", "--out", tmp_path / "set") == 2
    assert "No run given. Add --workdir RUN, whose replay" in capfd.readouterr().err
