"""What an ensemble learns from labels of which many are wrong, where the true reward is known."""

import dataclasses

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.actions import ContinuousActions
from podrl.agents.parts.preference_labels import Labels, held_out_slots
from podrl.agents.parts.preferences import choose_pairs, make_preferences
from podrl.agents.parts.reward_ensemble import make_ensemble
from podrl.config.rewards import RewardsConfig
from podrl.ops.preferences import Teachers, answer_queries
from podrl.types import EnvSpec
from tests.short_runs import make_agent, make_config, random_trajectory

SPEC = EnvSpec(id="known", observation=jax.ShapeDtypeStruct((3,), jnp.float32), actions=ContinuousActions(1))
LENGTH, NUM, ROUNDS = 25, 600, 3
MISTAKES = (0.1, 0.2, 0.3, 0.4, 0.5)  # 30 % on average.


def true_reward(features):
    return jnp.tanh(features[..., 0] - 0.5 * features[..., 1] * features[..., 3])


def make_labels(key, num, mistakes):
    """Labels of walks of features, as those of an environment change slowly."""
    walk_key, answer_key = jax.random.split(key)
    start, steps = jax.random.normal(walk_key, (2, num, 2, LENGTH, 4))
    features = jnp.clip(start[:, :, :1] + 0.3 * jnp.cumsum(steps, axis=2), -3, 3)
    rewards = true_reward(features)
    ones = jnp.ones(len(mistakes))
    teachers = Teachers(
        rationality=1e6 * ones, myopia=ones, mistakes=jnp.array(mistakes), skip_below=-1e9 * ones, tie_within=0 * ones
    )
    teacher, preference, answered = answer_queries(teachers, rewards, answer_key)
    margin = jnp.sum(rewards[:, 1] - rewards[:, 0], axis=-1)
    return Labels(
        features=features, preference=preference, answered=answered, teacher=teacher, update=teacher, margin=margin
    )


def measure(config, seed=0):
    """Accuracy against pairs without a mistake, and the mean drift of two refits, after rounds of 200 labels each."""
    ensemble = make_ensemble(config, SPEC)
    labels, test = make_labels(jax.random.key(seed), NUM, MISTAKES), make_labels(jax.random.key(seed + 9), 1000, (0.0,))
    params, opt_state = ensemble.init(jax.random.key(seed + 1))
    refit, rewards, drifts = jax.jit(ensemble.refit), jax.jit(ensemble.rewards), []
    for number in range(ROUNDS):
        known = dataclasses.replace(labels, answered=jnp.arange(NUM) < NUM // ROUNDS * (number + 1))
        before = rewards(params, test.features)
        params, opt_state, _ = refit(params, opt_state, known, jax.random.key(number))
        drifts.append(float(jnp.std(rewards(params, test.features) - before)))
    learned = jnp.sum(rewards(params, test.features), axis=-1)
    accuracy = float(jnp.mean((learned[:, 1] - learned[:, 0]) * test.margin > 0))
    return accuracy, float(np.mean(drifts[1:]))


SMALL = RewardsConfig(
    model="latent",
    combine="confidence",
    hidden_sizes=(32, 32),
    decoder_sizes=(32,),
    refit_steps=150,
    refit_learning_rate=2e-3,
    held_out=0.0,
    segment_length=LENGTH,
)
PLAIN = dataclasses.replace(SMALL, model="plain", combine="mean")


@pytest.mark.slow
def test_600_labels_of_which_30_in_100_are_wrong_teach_the_reward():
    accuracy, drift = measure(PLAIN)
    assert accuracy > 0.7
    assert 0 < drift < 0.1


def test_an_ensemble_learns_from_labels_and_from_no_slot_that_is_held_out_or_empty():
    config = dataclasses.replace(PLAIN, refit_steps=60, refit_learning_rate=3e-3, held_out=0.5)
    ensemble = make_ensemble(config, SPEC)
    labels = make_labels(jax.random.key(1), 40, (0.0,))
    odd = jnp.arange(40) % 2 == 1
    assert held_out_slots(40, 0.5).tolist() == odd.tolist()
    wrong = dataclasses.replace(labels, preference=jnp.where(odd, 1 - labels.preference, labels.preference))
    refit, key = jax.jit(ensemble.refit), jax.random.key(3)
    start = ensemble.init(jax.random.key(2))
    params, _, told = refit(*start, labels, key)
    jax.tree.map(np.testing.assert_array_equal, params, refit(*start, wrong, key)[0])
    returns = jnp.sum(ensemble.rewards(params, labels.features), axis=-1)
    assert float(jnp.mean((returns[:, 1] > returns[:, 0]) == (labels.margin > 0))) > 0.8
    assert told["loss"] < 0.6
    none = dataclasses.replace(labels, answered=odd)  # Only those that are held out.
    jax.tree.map(np.testing.assert_array_equal, refit(*start, none, key)[0], start[0])


def test_a_refit_that_is_not_finite_leaves_the_members_as_they_were():
    ensemble = make_ensemble(dataclasses.replace(PLAIN, refit_steps=3), SPEC)
    labels, start = make_labels(jax.random.key(1), 8, (0.0,)), ensemble.init(jax.random.key(2))
    broken = dataclasses.replace(labels, features=labels.features.at[:, 0, 0, 0].set(jnp.nan))
    refit = jax.jit(ensemble.refit)
    params, opt_state, told = refit(*start, broken, jax.random.key(3))
    jax.tree.map(np.testing.assert_array_equal, (params, opt_state), start)
    assert told["skipped_refits"]
    assert not told["learned"]
    assert np.isfinite(told["loss"])
    told = refit(*start, labels, jax.random.key(3))[2]
    assert told["learned"]
    assert not told["skipped_refits"]


def test_members_differ_and_are_weighed_by_how_far_their_latents_are_from_the_prior():
    ensemble = make_ensemble(SMALL, SPEC)
    params, _ = ensemble.init(jax.random.key(0))
    output = ensemble.evaluate(params, jnp.ones((7, 4)))
    assert len({float(x) for x in output.reward[:, 0]}) == 3
    divergence = 0.5 * np.sum(
        np.exp(2 * output.log_deviation) + np.square(output.mean) - 1 - 2 * output.log_deviation, axis=-1
    )
    np.testing.assert_allclose(ensemble.weights(output), divergence / divergence.sum(0), rtol=1e-3)
    equal = make_ensemble(dataclasses.replace(SMALL, combine="mean"), SPEC)
    np.testing.assert_allclose(equal.rewards(params, jnp.ones((7, 4))), np.mean(output.reward, axis=0), rtol=1e-5)


@pytest.mark.parametrize("selection", ["uniform", "disagreement"])
def test_pairs_are_of_segments_that_were_found_and_of_the_largest_disagreement(selection):
    config = dataclasses.replace(SMALL, queries=3, selection=selection)
    ensemble = make_ensemble(config, SPEC)
    params, _ = ensemble.init(jax.random.key(0))
    features = jax.random.normal(jax.random.key(1), (24, LENGTH, 4)) * 3
    found = jnp.arange(24) % 4 > 0
    pairs, usable = choose_pairs(ensemble, params, features, found, jax.random.key(2))
    assert usable.all()
    assert np.asarray(found)[np.asarray(pairs)].all()
    assert len(set(np.asarray(pairs).ravel().tolist())) == 6
    assert not choose_pairs(ensemble, params, features, jnp.arange(24) == 5, jax.random.key(2))[1].any()
    if selection == "disagreement":
        returns = jnp.sum(ensemble.evaluate(params, features).reward, axis=-1)
        probability = jax.nn.sigmoid(returns[:, pairs[:, 1]] - returns[:, pairs[:, 0]])
        spread = np.std(probability, axis=0)
        assert (np.diff(spread) <= 1e-6).all()


def test_a_round_that_finds_nothing_changes_neither_rewards_nor_what_a_later_one_may_ask():
    config = RewardsConfig(
        **{"source": "preferences", "queries": 3, "max_queries": 6, "segment_length": 4, "candidates": 2, "probe": 8},
        **{"hidden_sizes": (8,), "decoder_sizes": (8,), "refit_steps": 3, "held_out": 0.0},
    )
    agent, spec = make_agent(make_config("Pendulum-v1", agent="sac", network__squash_actions=True))
    model, num = make_preferences(config, spec), 12
    segments = random_trajectory(agent, spec, 4, num)
    start, refit = model.init(jax.random.key(0)), jax.jit(model.refit)
    explores = model.rewards(start, segments)
    missed = refit(start, segments, jnp.zeros(num, bool), jnp.int32(3), jax.random.key(1))
    np.testing.assert_array_equal(model.rewards(missed, segments), explores)
    assert missed.told["reward/missed"] == 3
    assert missed.rounds == 0
    found = jnp.arange(num) >= 6
    asked = refit(missed, segments, found, jnp.int32(6), jax.random.key(2))
    assert asked.rounds == 1
    assert asked.labels.answered.tolist() == [True] * 3 + [False] * 3
    assert asked.labels.update[:3].tolist() == [6] * 3
    assert np.any(model.rewards(asked, segments) != explores)
    taken = np.asarray(segments.observation)[:-1, 6:].reshape(-1, 3)
    assert all(np.any(np.all(np.isclose(taken, row[:3]), axis=1)) for row in np.asarray(asked.probe))
    again = refit(asked, segments, ~found, jnp.int32(9), jax.random.key(3))
    np.testing.assert_array_equal(again.probe, asked.probe)
