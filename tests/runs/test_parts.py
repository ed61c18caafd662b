"""A whole run on an environment whose observations have parts and a mask, and whose actions are of two kinds."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from podrl import train
from podrl.commands import evaluate, inspect_checkpoint
from podrl.loops.interface import Outcome
from podrl.runs.checkpoint_arrays import read_params
from podrl.saved_run import open_run
from podrl.types import VECTOR
from tests import short_runs
from tests.faults.checkpoints import edit, unseal

pytestmark = pytest.mark.usefixtures("compiled_once")

UPDATES = 8


def config_of(devices=1, updates=UPDATES, **overrides):
    return short_runs.make_config(
        "tests.envs.sides:Limited",
        agent="ppo",
        total_env_steps=updates * 16 * 4,
        actors__num_envs=16,
        env__source="gymnasium",
        network__encoder="minatar",
        network__frame_stack=2,
        network__normalize_observations=True,
        checkpoint__every_updates=4,
        topology__actor_devices_per_process=1,
        topology__learner_devices_per_process=devices,
        log__tensorboard=False,
        **overrides,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("limited")
    outcome = train.train(config_of(), workdir=str(folder))
    assert isinstance(outcome, Outcome)
    assert outcome.finished
    return folder


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_what_is_forbidden_is_never_done(folder):
    assert all(row["episode/return"] <= 4 for row in rows_of(folder) if row.get("episode/return") is not None)


def test_learning_sees_the_policy_that_acted(folder):
    """The first update learns from its own policy: the mask is the same, and so the divergence is nothing."""
    assert rows_of(folder)[0]["policy/kl_to_behaviour"] == pytest.approx(0, abs=1e-3)


def test_a_resumed_run_is_the_same_bit_by_bit(folder, tmp_path):
    resumed = tmp_path / "run"
    shutil.copytree(folder, resumed)
    shutil.rmtree(resumed / f"checkpoints/{UPDATES}")
    train.train(config_of(), workdir=str(resumed))
    assert rows_of(resumed)[-1]["fingerprint"] == rows_of(folder)[-1]["fingerprint"]


def test_two_devices_learn_the_same(folder, tmp_path):
    train.train(config_of(devices=2), workdir=str(tmp_path))
    ours, theirs = read_params(folder, 4), read_params(tmp_path, 4)
    for path, leaf in ours.items():
        np.testing.assert_allclose(theirs[path], leaf, rtol=1e-4, atol=1e-4 * np.abs(leaf).max(), err_msg=path)


def test_it_is_evaluated_greedily_and_by_samples(folder, tmp_path, capsys):
    out = tmp_path / "report.json"
    assert evaluate.main(["evaluate.py", "--workdir", str(folder), "--episodes", "20", "--json", str(out)]) == 0
    assert max(max(policy["returns"]) for policy in json.loads(out.read_text())["policies"].values()) <= 4


def test_its_parameters_leave_under_the_names_of_the_parts(folder, tmp_path):
    out = tmp_path / "params.npz"
    assert inspect_checkpoint.main(["inspect_checkpoint.py", "--workdir", str(folder), "--export", str(out)]) == 0
    with np.load(out) as exported:
        names = set(exported)
    assert {"encoder/images_image/Conv_0/kernel", "encoder/fused/kernel"} <= names
    assert {"encoder/others/Dense_0/kernel", f"observations/mean/{VECTOR}"} <= names


def test_an_mlp_gets_all_parts_as_one_vector_as_it_did_before_there_were_parts(tmp_path):
    """So runs of before go on."""
    config = dataclasses.replace(
        config_of(updates=4), network=dataclasses.replace(config_of().network, encoder="mlp", frame_stack=1)
    )
    train.train(config, workdir=str(tmp_path))
    assert len(rows_of(tmp_path)) == 4
    unseal(tmp_path / "checkpoints/4")
    for path in (tmp_path / "config.json", tmp_path / "checkpoints/4/config/metadata"):
        edit(path, lambda stored: [stored["env"].pop("parts"), stored["network"].pop("parts")])
    saved = open_run(str(tmp_path), None, jax.local_devices()[0])
    assert saved.spec.observation[VECTOR].shape == (12 * 12 + 2,)
    assert train.train(config, workdir=str(tmp_path)).finished
