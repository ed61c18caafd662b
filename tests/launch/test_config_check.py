"""A launcher checks the config in a child process, which may import JAX, before it submits anything."""

import importlib

import pytest

from podrl.config.config import ConfigError
from podrl.launch import config_check
from podrl.launch.config_check import check_config
from podrl.launch.options import split
from podrl.launch.start import launch
from tests.processes import ROOT

PPO = ("--config", str(ROOT / "configs/ppo_catch.py"))
SLURM = ("--slurm", "--nodes=1", "--gpus_per_node=0", "--dry_run")
launcher = importlib.import_module("podrl.commands.train")


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--config.agent.epocs=3", "Unknown config key 'agent.epocs'; did you mean 'agent.epochs'?"),
        ("--config.agent.epochs=many", "agent.epochs='many' is not a number."),
        ("--config.agent.epochs=0", "agent.epochs=0 must lie in [1, 1000]."),
    ],
)
def test_what_the_agent_alone_knows_is_refused_as_the_training_would(argument, said):
    with pytest.raises(ConfigError) as caught:
        check_config(["podrl", *PPO, argument])
    assert str(caught.value) == said


def test_what_libraries_say_after_the_mistake_is_not_taken_for_it(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, sys\natexit.register(lambda: sys.stderr.write('a library says goodbye\\n'))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"^agent\.epochs=0 must lie in \[1, 1000\]\.$"):
        check_config(["podrl", *PPO, "--config.agent.epochs=0"])


def test_the_launchers_own_podrl_is_checked_whatever_else_is_installed(tmp_path, monkeypatch):
    (tmp_path / "podrl").mkdir()
    (tmp_path / "podrl/__init__.py").write_text("raise ImportError('another podrl')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ConfigError, match="must lie in"):
        check_config(["podrl", *PPO, "--config.agent.epochs=0"])


def test_a_mistake_submits_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    arguments = ("tpu_launch.py", *SLURM, *PPO, "--config.agent.epocs=3")
    assert launcher.main([*arguments]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "podrl: error: Unknown config key 'agent.epocs'; did you mean 'agent.epochs'?\n"
    assert list(tmp_path.iterdir()) == []


def test_a_users_own_modules_are_found_in_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("EPOCHS = 0\n")
    (tmp_path / "own.py").write_text(
        "from mine import EPOCHS\nfrom configs import ppo_catch\ndef get_config():\n"
        "    config = ppo_catch.get_config()\n    config.agent.epochs = EPOCHS\n    return config\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"agent\.epochs=0 must lie in"):
        check_config(["podrl", "--config=own.py"])


def test_a_host_without_jax_says_so_in_a_line_and_submits(tmp_path, monkeypatch, caplog):
    (tmp_path / "jax.py").write_text("raise ImportError('no jax here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check_config(["podrl", *PPO, "--config.agent.epocs=3"])
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == (
        "The agent's keys are not checked here (ImportError: no jax here): the training does so when it starts."
    )


def test_a_check_that_takes_too_long_says_so_and_submits(monkeypatch, caplog):
    monkeypatch.setattr(config_check, "_LIMIT_S", 0.01)
    check_config(["podrl", *PPO])
    assert "not checked here (no answer within 0 s)" in caplog.records[0].getMessage()


@pytest.mark.parametrize(
    ("place", "arguments", "checks"),
    [
        (SLURM, (), True),
        (("--tpu=x", "--zone=y", "--dry_run"), ("--workdir=gs://bucket/run",), True),
        (("--local_processes=2", "--dry_run"), ("--config.agent.epochs=3",), True),
        (("--local_processes=2", "--dry_run"), ("--config.seed=3",), False),
        (("--local_processes=1", "--dry_run"), ("--config.agent.epochs=3",), False),
        (("--max_restarts=1", "--dry_run"), ("--config.agent.epochs=3",), False),
    ],
)
def test_a_check_comes_before_what_starts_elsewhere_or_several_times(place, arguments, checks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options, argv = split(["tpu_launch.py", *place, *PPO, *arguments])
    command = launcher.commandline.parse_command_line(argv)
    checked = []
    assert launch(options, argv, command, check_first=checked.append, root=ROOT) == 0
    assert checked == ([argv] if checks else [])
