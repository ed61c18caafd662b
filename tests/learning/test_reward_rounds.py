"""Rounds of preferences in whole runs: what they store, and that runs resume and spread over devices unchanged."""

import dataclasses

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.config.config import ConfigError
from podrl.runs.checkpoint_arrays import read_params
from podrl.saved_run import open_run
from podrl.train import train as train_here
from tests.multihost.test_training import train
from tests.processes import ROOT, read_rows
from tests.short_runs import facts, make_config, run

pytest.importorskip("gymnax")
PREFERENCES = {
    **{"agent": "sac", "env__source": "gymnax", "topology__placement": "anakin", "network__squash_actions": True},
    **{"network__action_scale": "observed", "replay__capacity": 512, "replay__batch": 32, "replay__ratio": 32.0},
    **{"replay__priority_exponent": 0.0, "rewards__source": "preferences", "rewards__segment_length": 5},
    **{"rewards__every_updates": 3, "rewards__queries": 4, "rewards__max_queries": 8, "rewards__refit_steps": 5},
    **{"rewards__hidden_sizes": (8,), "rewards__decoder_sizes": (8,), "rewards__probe": 16, "rewards__held_out": 0.5},
    **{"rewards__mistakes": (0.1, 0.5), "checkpoint__every_updates": 5},
    **{"rewards__model": "latent", "rewards__combine": "confidence"},
}


def make_run(devices=1, start=None, **overrides):
    saved = []

    def save(snapshot):
        saved.append(dataclasses.replace(snapshot, state=jax.tree.map(jnp.copy, snapshot.state)))

    outcome, rows = run(make_config("Pendulum-v1", **{**PREFERENCES, **overrides}), devices, start=start, save=save)
    return jax.device_get(outcome.state.extra["reward"]), outcome, rows, saved


@pytest.fixture(scope="module")
def whole():
    return make_run()


def test_a_label_has_who_gave_it_and_when_it_entered(whole):
    own, _, rows, _ = whole
    assert own.labels.update.tolist() == [3] * 4 + [6] * 4
    assert own.labels.answered.all()
    assert set(own.labels.teacher) <= {0, 1}
    assert own.rounds == 2
    says = own.labels.preference - 0.5
    agrees = np.sum(own.labels.margin * says > 0)
    assert rows[-1]["reward/wrong"] == pytest.approx(1 - agrees / 8)
    assert [row["reward/labels"] for row in rows] == [0] * 3 + [4] * 3 + [8] * 4
    assert rows[-1]["reward/drift"] > 0
    assert rows[-1]["reward/latent_spread"] > 0


def test_rewards_are_those_of_the_newest_model(whole):
    means = [row["reward/mean"] for row in whole[2]]
    assert all(mean > 0 for mean in means[2:3])  # Of rare observations: log(1 + distance).
    assert max(abs(mean) for mean in means[3:]) < 1  # Hyperbolic tangents.


def test_a_run_that_resumes_between_two_rounds_ends_with_the_same_bits(whole):
    own, outcome, rows, saved = whole
    assert saved[0].counters.learner_steps == 5
    again, resumed, later, _ = make_run(start=saved[0])
    jax.tree.map(np.testing.assert_array_equal, again, own)
    jax.tree.map(np.testing.assert_array_equal, resumed.state.params, outcome.state.params)
    assert facts(later)[-1]["fingerprint"] == facts(rows)[-1]["fingerprint"]


def test_eight_devices_ask_the_same_and_learn_the_same(whole):
    own, _, rows, _ = whole
    other, _, others, _ = make_run(devices=8)
    np.testing.assert_array_equal(other.labels.features[:4], own.labels.features[:4])  # Actions are uniform until then.
    for name in ("preference", "teacher", "update", "margin"):
        np.testing.assert_allclose(getattr(other.labels, name)[:4], getattr(own.labels, name)[:4], rtol=1e-5)
    assert others[3]["reward/drift"] == pytest.approx(rows[3]["reward/drift"], rel=1e-3)
    assert others[3]["reward/mean"] == pytest.approx(rows[3]["reward/mean"], rel=1e-3, abs=1e-5)


def test_a_first_round_that_would_find_no_segment_is_refused():
    with pytest.raises(ConfigError, match=r"Use rewards.first_update=11 or more"):
        make_run(rewards__segment_length=43)  # Before anything is compiled.


@pytest.mark.slow
def test_a_saved_run_acts_with_the_statistics_of_its_observations(tmp_path):
    overrides = {**PREFERENCES, "network__normalize_observations": True, "log__tensorboard": False}
    train_here(make_config("Pendulum-v1", **overrides, total_env_steps=160), workdir=str(tmp_path))
    exported = read_params(tmp_path, 5)
    assert exported["observations/variance"].max() > 0
    saved = open_run(str(tmp_path), None, jax.devices()[0])  # As `load_policy`, evaluations and exports do.
    statistics = saved.params["observations"]
    assert 0 < statistics.count <= 160
    for name in ("count", "mean", "variance"):
        np.testing.assert_array_equal(getattr(statistics, name), exported[f"observations/{name}"])
    assert not [name for name in exported if "reward" in name]


@pytest.mark.slow
def test_two_processes_ask_and_learn_what_one_does(tmp_path, monkeypatch):
    command = ("--config", ROOT / "configs/preferences_walker.py", "--smoke", "--config.log.every_updates=1")
    train(*command, "--workdir", "pair", cwd=tmp_path, processes=2)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")
    train(*command, "--workdir", "one", cwd=tmp_path, processes=1, devices=2)
    rows = [read_rows(tmp_path / name) for name in ("pair", "one")]
    pair, one = ([row for row in each if "reward/labels" in row] for each in rows)  # Evaluations have rows, too.
    for name in ("reward/labels", "reward/wrong", "reward/skipped", "reward/missed"):
        assert [row[name] for row in pair] == [row[name] for row in one], name
    assert pair[-1]["reward/labels"] > 0
    np.testing.assert_allclose([row["reward/mean"] for row in pair], [row["reward/mean"] for row in one], rtol=1e-4)
