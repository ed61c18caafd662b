"""A run that begins with the weights of another: what is taken, what is said, and what is refused."""

import dataclasses
import json
import logging
import os
import shutil

import jax
import numpy as np
import pytest

from podrl import train
from podrl.config.config import ConfigError
from podrl.runs.checkpoint_arrays import read_arrays
from tests.offline_runs import offline_config, write_pendulum
from tests.processes import ROOT, launch
from tests.short_runs import anakin_config, make_config

pytestmark = pytest.mark.usefixtures("compiled_once")
ONE = {f"topology__{who}_devices_per_process": 1 for who in ("actor", "learner")}
STILL = {"agent__optimizer__learning_rate": 1e-12}  # Updates hardly change the parameters.
SHORT = {"total_env_steps": 64, "log__tensorboard": False, "checkpoint__every_updates": 1}


def trained(folder, config, **settings):
    train.train(config, workdir=str(folder), **settings)
    return folder


def arrays(folder, update=2):
    return read_arrays(folder, update, ("params", "extra"))


def begins(caplog):
    return [text for text in caplog.messages if text.startswith("Begins with the weights of ")]


@pytest.fixture(scope="module")
def catch(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("catch") / "run", make_config(**SHORT, **ONE))


@pytest.mark.parametrize("make", [make_config, anakin_config], ids=["sebulba", "anakin"])
def test_all_weights_are_taken_and_the_manifest_says_of_whom(make, tmp_path, caplog):
    one = ONE if make is make_config else {}
    first = trained(tmp_path / "first", make(**SHORT, **one))
    with caplog.at_level(logging.INFO, logger="absl"):
        second = trained(tmp_path / "second", make(**SHORT, **one, **STILL, seed=2), init_from=str(first))
    ours, theirs = arrays(second), arrays(first)
    assert any(path.startswith("params/") for path in ours)
    for path in ours:
        np.testing.assert_allclose(ours[path], theirs[path], atol=1e-9)
    num = sum(path.startswith("params/") for path in ours)
    assert begins(caplog) == [f"Begins with the weights of {first}, update 2: all of {num} arrays of parameters fit."]
    manifest = json.loads((second / "manifest.json").read_text())
    assert manifest["init_from"] == {"run": str(first), "update": 2, "arrays": num, "of": num}


def test_what_does_not_fit_is_said_and_what_has_another_shape_is_its_own(catch, tmp_path, caplog):
    config = make_config(**SHORT, **ONE, **STILL, network__hidden_sizes=(16, 8))
    with caplog.at_level(logging.INFO, logger="absl"):
        trained(tmp_path / "run", config, init_from=str(catch))
    (line,) = begins(caplog)
    assert "4 of 8 arrays of parameters fit; not taken: encoder/Dense_1/bias float32[8] (not there)" in line
    assert "float32[8, 1] (float32[16, 1] there)" in line
    ours, theirs = arrays(tmp_path / "run"), arrays(catch)
    alike = [path for path in ours if path in theirs and ours[path].shape == theirs[path].shape]
    assert {"params/encoder/Dense_0/kernel", "params/policy/bias"} <= set(alike)
    for path in alike:
        np.testing.assert_allclose(ours[path], theirs[path], atol=1e-9)


def test_a_run_of_which_nothing_fits_is_refused_before_there_is_a_folder(catch, tmp_path):
    config = make_config(**SHORT, **ONE, agent="pqn", network__hidden_sizes=(12,))
    with pytest.raises(
        ConfigError, match=r"^--init_from=.*: no array of its parameters fits this run's: .*;"
    ) as caught:
        trained(tmp_path / "run", config, init_from=str(catch))
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"^--init_from=.*/nothing is not there, or no folder"):
        trained(tmp_path / "run", make_config(**SHORT, **ONE), init_from=str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match=r"^--init_from=.*/run is the run's own folder"):
        trained(tmp_path / "run", make_config(**SHORT, **ONE), init_from=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"with topology\.seeds=2: only a run of one seed"):
        trained(tmp_path / "run", anakin_config(**SHORT, topology__seeds=2), init_from=str(catch))
    assert not (tmp_path / "run").exists()


def test_a_run_that_resumes_has_its_own_weights_and_no_other_flag(catch, tmp_path, caplog):
    run, longer = tmp_path / "run", make_config(**{**SHORT, "total_env_steps": 128}, **ONE)
    trained(run, make_config(**SHORT, **ONE, seed=2), init_from=str(catch))
    other = shutil.copytree(catch, tmp_path / "other")
    for begun, flag, said in (
        (run, other, f"began with --init_from={catch}, and resumes from there"),
        (catch, other, "began with random weights"),
    ):
        with pytest.raises(ConfigError, match=said):
            trained(begun, make_config(**SHORT, **ONE), init_from=str(flag))
    before = arrays(run)
    with caplog.at_level(logging.INFO, logger="absl"):
        trained(run, make_config(**SHORT, **ONE, seed=2), init_from=str(catch))
    assert f"--init_from={catch} has no effect: the run resumes from a checkpoint of its own." in caplog.messages
    jax.tree.map(np.testing.assert_array_equal, arrays(run), before)
    trained(run, dataclasses.replace(longer, seed=2), accept_changes=True)
    assert json.loads((run / "manifest-3.json").read_text())["init_from"]["run"] == str(catch)


def test_a_run_without_a_checkpoint_begins_with_the_same_update_again(catch, tmp_path):
    source, run = shutil.copytree(catch, tmp_path / "source"), tmp_path / "run"
    config = make_config(**{**SHORT, "checkpoint__every_updates": 0}, **ONE, **STILL, seed=2)
    trained(run, config, init_from=str(source))
    shutil.rmtree(run / "checkpoints")
    (run / "checkpointed").unlink(missing_ok=True)
    with pytest.raises(ConfigError, match=r"has no checkpoint yet\. Repeat that flag"):
        trained(run, config)
    trained(source, make_config(**{**SHORT, "total_env_steps": 96}, **ONE), accept_changes=True)
    shutil.rmtree(source / "checkpoints/2")
    with pytest.raises(ConfigError, match=r"^Update 2 has no checkpoint in .*\. There are: 1, 3\.$"):
        trained(run, config, init_from=str(source))


@pytest.mark.slow
def test_slow_copies_behind_a_shared_encoder_begin_as_the_critics(tmp_path):
    replay = {"capacity": 128, "batch": 8, "ratio": 1.0, "priority_exponent": 0.0}
    run = {**SHORT, "agent": "drq", **{f"replay__{name}": value for name, value in replay.items()}}
    trained(tmp_path / "first", anakin_config("Pendulum-v1", **run, agent__critic_optimizer__learning_rate=0.1))
    still = {**STILL, "agent__critic_optimizer__learning_rate": 1e-12}
    trained(
        tmp_path / "second", anakin_config("Pendulum-v1", **run, **still, seed=2), init_from=str(tmp_path / "first")
    )
    ours, theirs = arrays(tmp_path / "second"), arrays(tmp_path / "first")
    slow = [path for path in ours if "/target/" in path]
    assert slow
    for path in slow:
        name = path.partition("/target/")[2]
        np.testing.assert_allclose(ours[path], theirs[f"params/{name}"], rtol=1e-5, atol=1e-9)


class TestOffline:
    @pytest.fixture(scope="class")
    def data(self, tmp_path_factory):
        return write_pendulum(tmp_path_factory.mktemp("data") / "set")

    def config(self, data, **settings):
        one = {"topology__learner_devices_per_process": 1, "network__normalize_observations": True}
        return offline_config(data, **one, **settings)

    def test_targets_and_statistics_come_with_the_weights(self, data, tmp_path, caplog):
        first = trained(tmp_path / "first", self.config(data))
        other = write_pendulum(tmp_path / "other", episodes=12)
        still = {"agent__optimizer__learning_rate": 1e-12, "agent__critic_optimizer__learning_rate": 1e-12}
        with caplog.at_level(logging.INFO, logger="absl"):
            second = trained(tmp_path / "second", self.config(other, **still, seed=2), init_from=str(first))
        assert begins(caplog)[0].endswith("arrays of parameters fit, with statistics (acting, observations).")
        ours, theirs = arrays(second, 6), arrays(first, 6)
        for path in theirs:
            if path.startswith(("params/", "extra/observations/")):
                np.testing.assert_allclose(ours[path], theirs[path], atol=1e-9)
            if "/target/" in path:
                name = path.partition("/target/")[2]
                np.testing.assert_allclose(ours[path], theirs[f"params/{name}"], rtol=1e-5, atol=1e-9)

    def test_statistics_that_only_one_run_has_are_named(self, data, tmp_path, caplog):
        first = trained(tmp_path / "first", self.config(data))
        plain = offline_config(data, topology__learner_devices_per_process=1)
        with caplog.at_level(logging.INFO, logger="absl"):
            trained(tmp_path / "second", plain, init_from=str(first))
        assert (
            "not taken: statistics of acting (only there); statistics of observations (only there)" in begins(caplog)[0]
        )


def test_the_command_takes_a_relative_path(catch, tmp_path):
    arguments = ("--config", ROOT / "configs/pqn_catch.py", "--smoke", "--workdir", "run")
    arguments += ("--config.network.hidden_sizes=(12,)",)
    result = launch(*arguments, "--init_from", os.path.relpath(catch, tmp_path), cwd=tmp_path)
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if "error" in line]
    assert f"--init_from={catch}: no array of its parameters fits this run's: " in line
    assert not (tmp_path / "run").exists()
