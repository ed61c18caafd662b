"""Paths as users type them."""

import json
from pathlib import Path

import pytest

from podrl import train
from podrl.commands import evaluate, inspect_checkpoint
from podrl.config.commandline import parse_command_line
from podrl.config.config import ConfigError
from podrl.config.paths import absolute, check_workdir_path, is_there
from podrl.runs.folder_guard import sole_user
from tests import short_runs
from tests.launch.test_launcher import ROOT
from tests.processes import read_rows

ONE_DEVICE = {
    "topology__actor_devices_per_process": 1,
    "topology__learner_devices_per_process": 1,
    "log__tensorboard": False,
}


def test_they_are_from_the_root_at_once_and_homes_are_expanded(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/of/mine")
    found = [absolute(path) for path in ("a/b", "~/runs/a", "../c", "/d", "gs://bucket/~/a", ".")]
    beside = f"{tmp_path.parent}/c"
    assert found == [f"{tmp_path}/a/b", "/home/of/mine/runs/a", beside, "/d", "gs://bucket/~/a", str(tmp_path)]
    with pytest.raises(ConfigError, match="there is no home folder ~nobody-of-this-name"):
        absolute("~nobody-of-this-name/a")


def test_every_command_does_so_when_it_is_parsed(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    config = f"--config={ROOT}/configs/impala_catch.py"
    assert parse_command_line(["", config, "--workdir=~/a"]).workdir == f"{tmp_path}/home/a"
    assert parse_command_line(["", config, "--workdir=gs://bucket/a"]).workdir == "gs://bucket/a"
    flags = evaluate.parse(["", "--workdir=~/a", "--json=e.json", "--video=v.gif"])
    assert (flags.workdir, flags.json, flags.video) == (f"{tmp_path}/home/a", tmp_path / "e.json", tmp_path / "v.gif")
    flags = inspect_checkpoint.parse(["", "--workdir=a", "--export=~/p.npz"])
    assert (flags.workdir, flags.export) == (f"{tmp_path}/a", f"{tmp_path}/home/p.npz")


@pytest.mark.parametrize("character", "*?[]\\")
def test_a_folder_that_orbax_would_not_find_again_is_refused(character, tmp_path, capsys):
    workdir = str(tmp_path / f"lr={character}")
    for attempt in (
        lambda: check_workdir_path(workdir),
        lambda: parse_command_line(["", f"--config={ROOT}/configs/impala_catch.py", f"--workdir={workdir}"]),
        lambda: train.train(short_runs.make_config(**ONE_DEVICE), workdir=workdir),
    ):
        with pytest.raises(ConfigError, match=r"in its path. Checkpoints in such a folder cannot be read back"):
            attempt()
    with pytest.raises(ConfigError, match=r"--workdir=file://a must be the path of a folder: leave out file://\."):
        check_workdir_path("file://a")
    assert not list(tmp_path.iterdir())
    assert inspect_checkpoint.main(["", "--workdir", workdir]) == 2
    assert "Checkpoints in such a folder cannot be read back" in capsys.readouterr().err


def test_what_the_system_does_not_say_is_not_taken_for_absence(tmp_path, monkeypatch):
    def stale(path):
        raise OSError(116, "Stale file handle")

    assert [is_there(tmp_path), is_there(tmp_path / "a"), is_there(tmp_path / "a/b")] == [True, False, False]
    monkeypatch.setattr("os.stat", stale)
    with pytest.raises(OSError, match="Stale"):
        is_there(tmp_path)


@pytest.mark.parametrize("workdir", ["run", None])
def test_an_environment_that_changes_the_folder_does_not_move_the_run(tmp_path, monkeypatch, workdir):
    monkeypatch.chdir(tmp_path)
    config = short_runs.make_config(
        "tests.envs.wanderer:Wanderer",
        env__source="gymnasium",
        total_env_steps=4 * 8 * 4,
        checkpoint__every_updates=2,
        **ONE_DEVICE,
    )
    outcome = train.train(config, workdir=workdir)
    assert outcome.finished
    assert Path.cwd() != tmp_path  # It did.
    (folder,) = [tmp_path / "run"] if workdir else (tmp_path / "runs").iterdir()
    assert len(read_rows(folder)) == 4
    assert (folder / "checkpoints/4").is_dir()


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    target = tmp_path / "precious"
    target.write_text("kept")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.lock").symlink_to(target)
    with pytest.raises(ConfigError, match=r"run/\.lock, which keeps two runs .* is a symbolic link. Remove it."):
        sole_user(tmp_path / "run").__enter__()
    assert target.read_text() == "kept"
    (tmp_path / "run/.lock").unlink()
    (tmp_path / "run/.lock").mkdir()
    with pytest.raises(ConfigError, match=r"cannot be opened \(Is a directory\). Remove it."):
        sole_user(tmp_path / "run").__enter__()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is damaged, it is not JSON"),
        ("{", "is damaged, it is not JSON"),
        ("[]", "is damaged: it holds no JSON object"),
        (json.dumps({"agent": 3}), "is damaged: agent is no section of keys"),
        (json.dumps({"env": []}), "is damaged: env is no section of keys"),
    ],
)
@pytest.mark.parametrize("accept_changes", [False, True])
def test_a_damaged_config_is_named(tmp_path, text, said, accept_changes):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=rf"{tmp_path}/config\.json {said}"):
        train.train(short_runs.make_config(**ONE_DEVICE), workdir=str(tmp_path), accept_changes=accept_changes)
