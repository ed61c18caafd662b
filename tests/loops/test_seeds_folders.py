"""Several seeds in one program: each has a folder as if it had run alone, beside which only its fellows may begin."""

import json
import shutil
import zipfile

import jax
import jax.export
import numpy as np
import pytest

from podrl import load_policy, train
from podrl.commands import inspect_checkpoint, plot
from podrl.config.config import ConfigError
from podrl.runs.checkpoint_arrays import read_params
from podrl.runs.folder_guard import FolderGuard
from podrl.runs.opening import open_folder
from podrl.runs.seed_folders import find_seeds
from podrl.runtime.job.job import ALONE
from podrl.saved_run import open_run
from tests.loops.seeds import FIRST, NUM, SEEDS, folders, seeds_config
from tests.processes import read_rows

pytestmark = pytest.mark.usefixtures("compiled_once")


def test_seeds_differ(straight_seeds):
    assert len({read_rows(folder)[0]["fingerprint/batch"] for folder in folders(straight_seeds[0])}) == NUM


def test_the_folder_of_each_is_that_of_a_run_of_its_own(straight_seeds):
    folder, _ = straight_seeds
    whole = json.loads((folder / "config.json").read_text())
    assert (whole["seed"], whole["topology"]["seeds"]) == (FIRST, NUM)
    assert not (folder / "metrics.jsonl").exists()
    for seed, own in zip(SEEDS, folders(folder), strict=True):
        config = json.loads((own / "config.json").read_text())
        assert (config["seed"], config["topology"]["seeds"]) == (seed, 1)
        assert json.loads((own / "manifest.json").read_text())["seed"] == seed
        saved = open_run(str(own), None, jax.devices()[0])
        assert (saved.config.seed, saved.counters.learner_steps) == (seed, 12)


def test_one_seeds_policy_is_exported(straight_seeds, tmp_path):
    """It acts as the saved run of that seed does, and otherwise than another's."""
    pytest.importorskip("flatbuffers")
    chosen, other = folders(straight_seeds[0])[1::-1]
    file = tmp_path / "policy.stablehlo"
    assert inspect_checkpoint.main(["inspect_checkpoint.py", "--workdir", str(chosen), "--export", str(file)]) == 0
    with zipfile.ZipFile(file) as archive:
        start, act = (jax.export.deserialize(bytearray(archive.read(name))) for name in ("start", "act"))
        assert json.loads(archive.read("policy.json"))["update"] == 12
    observation = np.random.default_rng(1).normal(size=(64, 4)).astype(np.float32)
    carry = start.call(np.int32(1), np.arange(64, dtype=np.uint32))
    found, _ = act.call(observation, np.zeros(64, np.float32), np.ones(64, bool), carry)
    expected, others = (load_policy(each, policy="greedy") for each in (chosen, other))
    for policy in (expected, others):
        policy.reset(64)
    np.testing.assert_array_equal(found, expected.act(observation))
    assert (np.asarray(found) != others.act(observation)).any()

    params = tmp_path / "params.npz"
    assert inspect_checkpoint.main(["inspect_checkpoint.py", "--workdir", str(chosen), "--export", str(params)]) == 0
    own, theirs = (read_params(each, 12) for each in (chosen, other))
    with np.load(params) as exported:
        assert sorted(exported.files) == sorted(own)
        for name, array in own.items():
            np.testing.assert_array_equal(exported[name], array)
    assert any((own[name] != theirs[name]).any() for name in own)


def test_the_seeds_of_a_run_are_one_curve_with_a_band(straight_seeds, tmp_path, monkeypatch, capsys):
    drawn, out = [], tmp_path / "curve.png"
    monkeypatch.setattr(plot, "draw", lambda groups, x, y, image_format: drawn.append(groups) or b"")
    assert plot.main(["plot.py", *map(str, folders(straight_seeds[0])), "--out", str(out)]) == 0
    ((curves,),) = drawn
    assert len(curves) == NUM
    for curve, own in zip(curves, folders(straight_seeds[0]), strict=True):
        returns = [row["episode/return"] for row in read_rows(own) if row.get("episode/return") is not None]
        np.testing.assert_allclose(curve.y, returns)
    capsys.readouterr()
    assert plot.main(["plot.py", str(straight_seeds[0]), "--out", str(tmp_path / "other.png")]) == 2
    assert f"It holds the run of each seed: name {straight_seeds[0]}/seed-{FIRST}" in capsys.readouterr().err


def test_each_resumes_alone(straight_seeds, tmp_path):
    shutil.copytree(straight_seeds[0] / f"seed-{FIRST + 1}", tmp_path / "alone")
    shutil.rmtree(tmp_path / "alone/checkpoints/12")
    config = seeds_config(seed=FIRST + 1, topology__seeds=1)
    assert train.train(config, workdir=str(tmp_path / "alone")).finished
    assert read_rows(tmp_path / "alone")[-1]["learner_steps"] == 12


def test_the_outcome_is_of_all(straight_seeds):
    _, outcome = straight_seeds
    assert outcome.finished
    assert [each.counters for each in outcome.seeds] == NUM * [outcome.counters]
    assert outcome.episode_return == pytest.approx(np.mean([each.episode_return for each in outcome.seeds]))
    assert outcome.episodes == sum(each.episodes for each in outcome.seeds)


class TestFoldersOfOthers:
    """Runs that would begin beside others in the same folder."""

    def open(self, folder, config, **how):
        with FolderGuard() as guard:
            rules = {"is_new": False, "accept_changes": True, "start_anew": False, "env_before": {}}
            return open_folder(config, str(folder), guard, ALONE, **rules | how)

    @pytest.fixture
    def several(self, straight_seeds, tmp_path):
        return shutil.copytree(straight_seeds[0], tmp_path / "several")

    @pytest.fixture
    def one(self, straight_seeds, tmp_path):
        return shutil.copytree(straight_seeds[0] / f"seed-{FIRST}", tmp_path / "one")

    @pytest.mark.parametrize(
        ("overrides", "said"),
        [
            ({"topology__seeds": 1}, r"holds runs of several seeds \(seed-5; seed-6; seed-7\), and topology.seeds=1"),
            (
                {"seed": 20},
                r"of other seeds \(seed-5; seed-6; seed-7\): seed=20 with .*=3 are seed-20 to seed-22",
            ),
        ],
        ids=["one", "shifted"],
    )
    def test_are_refused_where_several_are(self, several, overrides, said):
        with pytest.raises(ConfigError, match=said + ".*--workdir, or add --start_anew"):
            train.train(seeds_config(**overrides), workdir=str(several), accept_changes=True)

    def test_are_refused_where_one_is(self, one):
        with pytest.raises(ConfigError, match=r"metrics.jsonl and checkpoints of a run of one seed, and .*seeds=3"):
            train.train(seeds_config(), workdir=str(one), accept_changes=True)

    def test_some_of_the_seeds_may_continue(self, several):
        assert self.open(several, seeds_config(topology__seeds=2)) == (several, True)

    @pytest.mark.parametrize("overrides", [{"topology__seeds": 1}, {"seed": 20}, {}])
    def test_starting_anew_deletes_the_runs_of_all_seeds(self, several, overrides):
        (several / "seed-6/notes.txt").write_text("mine")
        assert self.open(several, seeds_config(**overrides), start_anew=True) == (several, False)
        assert not find_seeds(several)
        assert not list(several.glob("seed-*/checkpoints"))
        assert (several / "seed-6/notes.txt").exists()
        assert self.open(several, seeds_config(**overrides)) == (several, False)

    def test_starting_anew_leaves_runs_that_are_no_seeds_of_this_one(self, several):
        (several / "config.json").unlink()
        with pytest.raises(ConfigError, match=r"holds runs of several seeds .*choose another --workdir\."):
            self.open(several, seeds_config(topology__seeds=1), start_anew=True)
        assert find_seeds(several) == ["seed-5", "seed-6", "seed-7"]
