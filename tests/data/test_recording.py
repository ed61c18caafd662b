"""`tools/record.py` on real runs."""

import json
import shutil

import numpy as np
import pytest

from podrl import recording, train
from podrl.commands import record
from podrl.data.manifest import read_manifest
from podrl.data.shards import Shard
from podrl.data.writer import DataWriter
from tests import short_runs
from tests.data.episodes import content_of


def trained(folder, **overrides):
    config = short_runs.make_config(
        **{
            "total_env_steps": 4 * 8 * 4,
            "checkpoint__every_updates": 2,
            "checkpoint__keep": 3,
            "topology__actor_devices_per_process": 1,
            "topology__learner_devices_per_process": 1,
            "log__tensorboard": False,
            **overrides,
        }
    )
    train.train(config, workdir=str(folder))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """`catch`, a run on Catch of 4 updates with checkpoints of 2 and 4, and `scripted`."""
    folder = tmp_path_factory.mktemp("runs")
    trained(folder / "catch")
    trained(folder / "scripted", env_id="scripted", env__source="tests.envs.scripted", env__options={"truncate": True})
    return folder


def record_set(*arguments):
    return record.main(["record.py", *map(str, arguments)])


def read_set(folder):
    """The facts and the rows of a whole data set."""
    manifest = read_manifest(folder)
    shards = [Shard(folder, manifest.spec, each) for each in manifest.shards]
    read = [shard.read(0, each.rows) for shard, each in zip(shards, manifest.shards, strict=True)]
    rows = {name: np.concatenate([each[name] for each in read]) for name in read[0]}
    return manifest, [shard.facts for shard in shards], rows


def test_records_whole_episodes_of_the_policy_with_its_behaviour(runs, tmp_path):
    assert record_set("--workdir", runs / "catch", "--steps", 300, "--out", tmp_path / "set", "--envs", 4) == 0
    manifest, (facts,), rows = read_set(tmp_path / "set")
    found = dict(manifest.recordings[0].facts)
    assert len(found.pop("params")) == 16
    assert found == {
        **{"policy": "sampled", "run": "catch", "agent": "impala", "update": 4, "env_steps": 128},
        **{"steps": 300, "seed": 1, "stream": 0, "num_envs": 4, "max_episode_steps": None},
    }
    assert manifest.recordings[0].is_complete
    assert (facts.length == 9).all()
    assert 300 <= facts.length.sum() < 300 + 4 * 9
    assert len(facts.length) == 4 * 9
    assert set(facts.episode_return) <= {-1.0, 1.0}
    assert len(set(facts.seed)) == 4
    np.testing.assert_array_equal(np.unique(facts.number), range(9))
    final = facts.begin + facts.length
    np.testing.assert_array_equal(rows["reward"][final - 1], facts.episode_return)
    assert not rows["discount"][final - 1].any()
    assert (rows["params_version"][final - 1] == 4).all()
    ball_and_paddle = rows["observation"].reshape(len(rows["reward"]), -1).sum(axis=1)
    assert (ball_and_paddle > 0).all()
    logits = rows["behaviour/policy"]
    chance = np.exp(logits - logits.max(-1, keepdims=True))
    chance /= chance.sum(-1, keepdims=True)
    played = np.ones(len(chance), bool)
    played[final] = False
    taken = np.take_along_axis(chance, rows["action"][:, None], 1)[played, 0]
    assert abs(taken.mean() - (chance**2).sum(-1)[played].mean()) < 0.08  # It samples from these logits.


def test_a_truncated_episode_keeps_its_true_final_observation(runs, tmp_path):
    assert (
        record_set("--mixture", "random:1", "--workdir", runs / "scripted", "--steps", 40, "--out", tmp_path / "set")
        == 0
    )
    _, (facts,), rows = read_set(tmp_path / "set")
    assert set(facts.length) == {3, 5}
    assert (rows["discount"] == 1).all()
    for begin, length in zip(facts.begin, facts.length, strict=True):
        np.testing.assert_array_equal(rows["observation"][begin : begin + length + 1, 2], range(length + 1))
        np.testing.assert_array_equal(rows["reward"][begin : begin + length], range(1, length + 1))


def test_a_mixture_has_its_shares_and_the_same_command_the_same_bytes(runs, tmp_path):
    mixture = f"random:0.5,{runs}/catch:0.25,{runs}/catch@2:0.25"
    for name in ("a", "b"):
        assert record_set("--mixture", mixture, "--steps", 720, "--out", tmp_path / name, "--envs", 4) == 0
    assert content_of(tmp_path / "a") == content_of(tmp_path / "b")
    manifest, facts, rows = read_set(tmp_path / "a")
    assert [each.facts.get("update") for each in manifest.recordings] == [None, 4, 2]
    assert [int(each.length.sum()) for each in facts] == [360, 180, 180]
    assert "behaviour/policy" not in rows  # Random actions have none.
    assert sorted(set(rows["params_version"])) == [-1, 0, 2, 4]
    seeds = [set(each.seed) for each in facts]
    assert not seeds[0] & seeds[1]
    counts = np.bincount(rows["action"][: facts[0].length.sum() + len(facts[0].length)], minlength=3)
    assert (counts > 80).all()
    assert record_set("--mixture", mixture, "--steps", 720, "--out", tmp_path / "a", "--envs", 4) == 0
    assert content_of(tmp_path / "a") == content_of(tmp_path / "b")
    assert record_set("--mixture", mixture, "--steps", 720, "--out", tmp_path / "c", "--envs", 4, "--seed", 2) == 0
    assert (read_set(tmp_path / "c")[2]["observation"] != rows["observation"]).any()


def test_what_was_cut_short_ends_with_the_same_bytes(runs, tmp_path, monkeypatch):
    def command(name):
        return ("--mixture", f"random:0.5,{runs}/catch:0.5", "--steps", 400, "--out", tmp_path / name, "--envs", 4)

    monkeypatch.setattr(recording, "DataWriter", lambda *arguments: DataWriter(*arguments, shard_bytes=3000))
    assert record_set(*command("straight")) == 0
    commit, left = DataWriter.commit, 7

    def fail(writer):
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        commit(writer)

    monkeypatch.setattr(DataWriter, "commit", fail)
    assert record_set(*command("cut")) == 130
    monkeypatch.setattr(DataWriter, "commit", commit)
    assert not read_manifest(tmp_path / "cut").recordings[-1].is_complete
    assert record_set(*command("cut")) == 0
    assert content_of(tmp_path / "cut") == content_of(tmp_path / "straight")


def test_two_runs_of_one_name_are_two_recordings(runs, tmp_path):
    """`b/catch` has the name, the update and the steps of `a/catch`, and other parameters."""
    shutil.copytree(runs / "catch", tmp_path / "a/catch")
    trained(tmp_path / "b/catch", seed=2)
    for where in ("a", "b", "a"):
        arguments = ("--workdir", tmp_path / where / "catch", "--steps", 40, "--out", tmp_path / "set", "--envs", 4)
        assert record_set(*arguments) == 0
    first, second = read_manifest(tmp_path / "set").recordings
    assert {name for name in first.facts if first.facts[name] != second.facts[name]} == {"params"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--steps", 9), "No run given. Add --workdir RUN, or --mixture."),
        (("--steps", 9, "--mixture", "random:1"), "--mixture names no run. Add --workdir RUN"),
        (("--steps", 9, "--mixture", "random:0.5,{runs}/catch:0.4"), "the shares sum to 0.9, not to 1."),
        (("--steps", 9, "--mixture", "{runs}/catch"), "is not POLICY:SHARE, such as random:0.5"),
        (("--steps", 9, "--mixture", "random@3:0.5,{runs}/catch:0.5"), "has no checkpoints. Write random:0.5."),
        (("--steps", 9, "--mixture", "random:0,{runs}/catch:1"), "the share of 'random:0' must be above 0."),
        (("--steps", 0, "--workdir", "{runs}/catch"), "--steps=0 must lie in [1, 2**31]."),
        (
            ("--steps", 1000, "--mixture", "random:0.9999,{runs}/catch:0.0001"),
            "=1000 leaves no step to {runs}/catch, ",
        ),
        (("--steps", 9, "--mixture", "{runs}/catch@3:1"), "--step=3 has no checkpoint in"),
        (("--steps", 9, "--workdir", "{runs}/nowhere"), "is not there, or no folder"),
        (("--steps", 9, "--mixture", "{runs}/catch:0.5,{runs}/scripted:0.5"), "A data set has one environment."),
        (("--steps", 9, "--workdir", "{runs}/catch", "--out", "{runs}"), "is no data set, and not empty."),
    ],
)
def test_mistakes_are_one_line(runs, tmp_path, capfd, arguments, said):
    given = [str(each).format(runs=runs) for each in arguments]
    assert record_set("--out", tmp_path / "set", *given) == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("record: error: ")]
    assert len(errors) == 1
    assert said.replace("{runs}", str(runs)) in errors[0]
    assert not (tmp_path / "set").exists()


def test_another_environment_is_not_appended(runs, tmp_path, capfd):
    assert record_set("--workdir", runs / "catch", "--steps", 9, "--out", tmp_path / "set") == 0
    before = content_of(tmp_path / "set")
    assert record_set("--workdir", runs / "scripted", "--steps", 9, "--out", tmp_path / "set") == 2
    assert "holds episodes of Catch-v0 with DiscreteActions(num=3); these are of scripted" in capfd.readouterr().err
    assert content_of(tmp_path / "set") == before
    assert json.loads(before["manifest.json"])["settings"]["id"] == "Catch-v0"
