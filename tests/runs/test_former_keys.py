"""Runs with keys that are refused today because they change nothing: they resume, and are read as before."""

import json

import numpy as np
import pytest

import podrl
from podrl import assembly, train
from podrl.commands import evaluate, inspect_checkpoint
from podrl.config.config import ConfigError
from tests import short_runs

pytestmark = pytest.mark.usefixtures("compiled_once")

SHORT = {
    "total_env_steps": 3 * 8 * 4,
    "topology__actor_devices_per_process": 1,
    "topology__learner_devices_per_process": 1,
    "log__tensorboard": False,
}
LONGER = {**SHORT, "total_env_steps": 4 * 8 * 4}


@pytest.fixture(scope="module")
def former(tmp_path_factory):
    """A run of an earlier podrl, which took `network.width` for an MLP."""
    folder = tmp_path_factory.mktemp("former")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly, "check_has_effect", lambda *inputs: None)
        train.train(short_runs.make_config(**SHORT, network__width=3), workdir=str(folder))
    assert json.loads((folder / "config.json").read_text())["network"]["width"] == 3
    return folder


def test_it_resumes_by_its_command_and_the_key_is_said(former, caplog):
    caplog.set_level("INFO", logger="absl")
    outcome = train.train(short_runs.make_config(**LONGER, network__width=3), workdir=str(former), accept_changes=True)
    assert outcome.finished
    assert outcome.counters.learner_steps == 4
    assert "network: without effect: network.width=3 (as before: the encoder is an MLP, and it mul" in caplog.text


@pytest.mark.parametrize(("value", "flag"), [(2, "accept_changes"), (3, "start_anew")])
def test_another_value_or_a_run_from_the_beginning_is_refused(former, value, flag):
    config = short_runs.make_config(**SHORT, network__width=value)
    with pytest.raises(ConfigError, match=rf"network\.width={value} has no effect: the encoder is an MLP"):
        train.train(config, workdir=str(former), **{flag: True})


def test_its_policy_is_played_loaded_and_exported(former, tmp_path):
    played = ["", "--workdir", str(former), "--episodes", "2", "--policy", "greedy"]
    assert evaluate.main(played) == 0
    policy = podrl.load_policy(str(former))
    policy.reset(2)
    assert policy.act(np.zeros((2, 10, 5), np.float32), first=np.ones(2, bool)).shape == (2,)
    assert inspect_checkpoint.main(["", "--workdir", str(former), "--export", str(tmp_path / "params.npz")]) == 0
    assert (tmp_path / "params.npz").exists()
    assert inspect_checkpoint.main(["", "--workdir", str(former), "--export", str(tmp_path / "p.stablehlo")]) == 0
    assert (tmp_path / "p.stablehlo").exists()
