"""`tools/evaluate.py` on a real run."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

from podrl import saved_run, train
from podrl.commands import evaluate
from podrl.envs.sources import envpool
from podrl.runtime.xla_flags import GPU_FLAG
from tests import short_runs
from tests.faults.checkpoints import unseal

ONE_DEVICE = {
    "topology__actor_devices_per_process": 1,
    "topology__learner_devices_per_process": 1,
    "log__tensorboard": False,
}


@pytest.fixture(scope="module")
def catch(tmp_path_factory):
    """A run on Catch of 12 updates with checkpoints of 4, 8 and 12, on 2 + 4 devices."""
    folder = tmp_path_factory.mktemp("catch")
    config = short_runs.make_config(
        total_env_steps=12 * 8 * 4,
        agent__optimizer__learning_rate=0.05,
        checkpoint__every_updates=4,
        topology__actor_devices_per_process=2,
        topology__learner_devices_per_process=4,
        actors__pools_per_thread=1,
        log__tensorboard=False,
    )
    train.train(config, workdir=str(folder))
    return folder


def play(catch, *arguments):
    return evaluate.main(["evaluate.py", "--workdir", str(catch), "--episodes", "40", *map(str, arguments)])


def report_of(catch, tmp_path, *arguments):
    assert play(catch, "--json", tmp_path / "report.json", *arguments) == 0
    return json.loads((tmp_path / "report.json").read_text())


def test_says_what_was_played_and_how_well(catch, tmp_path, capsys):
    before = sorted(catch.rglob("*"))
    report = report_of(catch, tmp_path)
    printed = capsys.readouterr().out
    assert "test on Catch-v0, update 12 (384 env steps, 384 frames)" in printed
    assert "40: the first 2 of each of 20 environments, seed 1" in printed
    assert re.search(r"greedy \| +sampled", printed)
    assert "Intervals: Student's t, of the mean." in printed
    assert "WARNING" not in printed
    assert "human" not in printed
    assert (report["learner_steps"], report["seed"], report["protocol"]) == (12, 1, {"max_episode_steps": "none"})
    for result in report["policies"].values():
        assert result["episodes"] == len(result["returns"]) == len(result["lengths"]) == 40
        assert set(result["lengths"]) == {9}
        assert result["return"]["mean"] == pytest.approx(np.mean(result["returns"]))
        low, high = result["return"]["interval"]
        assert -1 <= low <= result["return"]["mean"] <= high <= 1
    assert sorted(catch.rglob("*")) == before  # The run's folder is only read.


@pytest.mark.parametrize(("episodes", "said"), [(1, "One episode has no interval"), (9, "Intervals of 9 episodes are")])
def test_few_episodes_are_warned_of(catch, capsys, episodes, said):
    assert play(catch, "--episodes", episodes, "--policy", "greedy") == 0
    printed = capsys.readouterr().out
    assert f"WARNING: {said}" in printed
    assert (["|", "95%", "interval", "|", "-", "|"] in [line.split() for line in printed.splitlines()]) == (
        episodes == 1
    )


def test_is_reproducible(catch, tmp_path):
    first = report_of(catch, tmp_path)
    assert report_of(catch, tmp_path) == first
    assert report_of(catch, tmp_path, "--seed", 2)["policies"] != first["policies"]
    earlier = report_of(catch, tmp_path, "--step", 4)
    assert earlier["learner_steps"] == 4
    assert earlier["policies"] != first["policies"]


@pytest.mark.parametrize(("determinism", "code"), [("exact", 2), ("free", 0)])
def test_asks_the_compiler_for_what_training_asked(catch, tmp_path, monkeypatch, capsys, determinism, code):
    """A module of this name is all that tells of a GPU before JAX looks for one."""
    path = catch / "checkpoints/12/config/metadata"
    config = json.loads(path.read_text())
    folder = shutil.copytree(catch, tmp_path / "run")
    unseal(folder / "checkpoints/12")
    (folder / path.relative_to(catch)).write_text(json.dumps(config | {"determinism": determinism}))
    (tmp_path / "jax_plugins").mkdir()
    (tmp_path / "jax_plugins/xla_cuda0.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
    monkeypatch.setenv("XLA_FLAGS", f"{GPU_FLAG}=false")
    assert play(folder, "--policy", "greedy") == code
    assert (f"XLA_FLAGS has {GPU_FLAG}=false" in capsys.readouterr().err) == (code == 2)


def test_the_film_shows_the_episodes_that_count(catch, tmp_path):
    image = pytest.importorskip("PIL.Image")
    report = report_of(catch, tmp_path, "--policy", "sampled", "--video", tmp_path / "play.gif")
    film = image.open(tmp_path / "play.gif")
    assert list(report["policies"]) == ["sampled"]
    shown_ms = 0
    for index in range(film.n_frames):
        film.seek(index)
        shown_ms += film.info["duration"]
    assert shown_ms == 2 * 10 * 200  # Two episodes of ten pictures, at five a second.
    assert film.size[0] >= 240
    film.seek(0)
    assert (np.asarray(film.convert("RGB"))[60:].max(axis=-1) == 255).sum() > 500  # The ball or the paddle.
    assert report_of(catch, tmp_path, "--policy", "sampled") == report  # Filming changes nothing.


def test_a_film_ends_in_time(catch, tmp_path):
    image = pytest.importorskip("PIL.Image")
    report_of(catch, tmp_path, "--policy", "greedy", "--video", tmp_path / "play.gif", "--video_seconds", "0.6")
    assert image.open(tmp_path / "play.gif").n_frames <= 3


def test_a_film_as_mp4(catch, tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    report_of(catch, tmp_path, "--policy", "greedy", "--video", tmp_path / "play.mp4")
    frames, seconds = ffmpeg.count_frames_and_secs(str(tmp_path / "play.mp4"))
    assert frames == 20
    assert seconds == pytest.approx(4.0, abs=0.3)


@pytest.mark.slow
def test_atari_has_a_score_on_the_human_scale(tmp_path, capsys):
    config = short_runs.make_config("Breakout-v5", total_env_steps=1, network__encoder="nature", **ONE_DEVICE)
    train.train(config, workdir=str(tmp_path / "run"))
    arguments = ("--episodes", "2", "--policy", "sampled")
    report = report_of(tmp_path / "run", tmp_path, *arguments)
    printed = capsys.readouterr().out
    result = report["policies"]["sampled"]
    assert result["human_normalised"]["mean"] == pytest.approx((result["return"]["mean"] - 1.7) / 28.8)
    assert "human-normalised" in printed
    assert "max_episode_frames=108000  frame_skip=4  repeat_action_probability=0.0  noop_max=30" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--step", "5"), ". There are: 4, 8, 12."),
        (("--workdir", "nowhere"), "/nowhere is not there, or no folder."),
        (("--workdir", "~nobody-of-this-name/a"), ": there is no home folder ~nobody-of-this-name. Write it out. See"),
        (("--video", "nowhere/x.gif"), "/nowhere/x.gif: there is no such folder."),
        (("--json", "."), " is a folder. Name a file in it."),
        (("--video", "play.avi"), "/play.avi: '.avi' is not known. Use .gif or .mp4."),
        (("--episodes", "0"), "--episodes=0 must lie in [1, 1e6]."),
        (("--policy", "best"), "Argument --policy: invalid choice: 'best'"),
        (("--sped", "1"), "Unrecognized arguments: --sped 1. See --help."),
    ],
)
def test_mistakes_are_one_line(catch, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert play(catch, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("evaluate: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_run_without_a_checkpoint_says_so(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert play(tmp_path) == 2
    assert "has no whole checkpoint yet" in capsys.readouterr().err


def test_an_environment_without_a_picture_says_so(catch, tmp_path, monkeypatch, capsys):
    unseen = dataclasses.replace(envpool.SOURCE, make_picture_pool=None)
    monkeypatch.setattr(envpool, "SOURCE", unseen)
    assert play(catch, "--video", tmp_path / "x.gif") == 2
    assert "env.source='envpool' has no pictures: it lacks make_picture_pool." in capsys.readouterr().err


def test_a_missing_package_is_named(catch, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    assert play(catch, "--video", tmp_path / "x.mp4") == 2
    assert "pip install -e '.[video]'" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_one_line_and_exit_code_one(catch, tmp_path, capsys):
    shutil.copytree(catch, tmp_path / "run")
    for path in (tmp_path / "run/checkpoints/12/state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    assert play(tmp_path / "run") == 1
    assert re.fullmatch(r"evaluate: error: Checkpoint 12 in \S+ is damaged: .+\.\n", capsys.readouterr().err)


def test_other_parameters_than_were_saved_are_damage_and_no_other_score(catch, tmp_path, capsys):
    """Those of another update: well written, so that nothing but the hashes can tell."""
    run = shutil.copytree(catch, tmp_path / "run")
    shutil.rmtree(run / "checkpoints/12/state")
    shutil.copytree(run / "checkpoints/8/state", run / "checkpoints/12/state")
    assert play(run) == 1
    said = r"evaluate: error: \S+ 12 in \S+ is damaged: params/\S+ and \d+ more of \d+ arrays: the hash is not .+\.\n"
    assert re.fullmatch(said, capsys.readouterr().err)


def test_one_that_cannot_be_read_is_not_called_damaged(catch, tmp_path, capsys):
    run = shutil.copytree(catch, tmp_path / "run")
    (run / "checkpoints/12/counters/metadata").unlink()
    (run / "checkpoints/12/counters/metadata").symlink_to("/proc/self/mem")
    assert play(run) == 1
    assert "cannot be read: Input/output error." in capsys.readouterr().err


def test_a_checkpoint_that_the_run_deletes_meanwhile_is_no_damage(catch, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    shutil.copytree(catch, run)
    restore = saved_run.restore_actor

    def delete_and_restore(workdir, shape, step):
        if step == doomed:
            shutil.rmtree(run / f"checkpoints/{step}")
        return restore(workdir, shape, step)

    monkeypatch.setattr(saved_run, "restore_actor", delete_and_restore)
    doomed = 12
    assert report_of(run, tmp_path)["learner_steps"] == 8
    capsys.readouterr()
    doomed = 4
    assert play(run, "--step", 4) == 1
    said = f"evaluate: error: Checkpoint 4 in {run} was deleted meanwhile by its run. There are: 8.\n"
    assert capsys.readouterr().err.endswith(said)
