"""Preferences: the loss and the divergence against numpy and integrals, and what simulated teachers say."""

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.ops.preferences import (
    Teachers,
    answer_queries,
    bradley_terry_loss,
    confidence_weights,
    prior_divergence,
    state_entropy_reward,
)

NUM = 20_000


def teachers(**values):
    plain = {"rationality": [1e6], "myopia": [1.0], "mistakes": [0.0], "skip_below": [-1e9], "tie_within": [0.0]}
    return Teachers(**{name: jnp.array(value, jnp.float32) for name, value in {**plain, **values}.items()})


def ask(rewards, **values):
    """Asks many times about two segments of these rewards; (teachers, preferences, answered)."""
    many = jnp.broadcast_to(jnp.array(rewards, jnp.float32), (NUM, *np.shape(rewards)))
    return jax.device_get(jax.jit(answer_queries)(teachers(**values), many, jax.random.key(3)))


def test_the_loss_is_the_cross_entropy_of_a_softmax_over_both_returns():
    rng = np.random.default_rng(1)
    returns, preference = rng.normal(size=(50, 2)) * 5, rng.choice([0, 0.5, 1], 50)
    shares = np.exp(returns) / np.exp(returns).sum(-1, keepdims=True)
    expected = -(preference * np.log(shares[:, 1]) + (1 - preference) * np.log(shares[:, 0]))
    found = bradley_terry_loss(jnp.array(returns, jnp.float32), jnp.array(preference, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert np.isfinite(bradley_terry_loss(jnp.array([1e4, -1e4]), jnp.array(1.0)))


def test_the_divergence_from_the_prior_is_the_integral():
    mean, log_deviation = np.array([0.7, -1.2]), np.array([-0.5, 0.3])
    x = np.linspace(-15, 15, 200_001)[:, None]
    scale = np.exp(log_deviation)
    log_p = -0.5 * ((x - mean) / scale) ** 2 - log_deviation
    expected = np.sum(np.exp(log_p) / np.sqrt(2 * np.pi) * (log_p + 0.5 * x**2), axis=0).sum() * (x[1, 0] - x[0, 0])
    found = prior_divergence(jnp.array(mean, jnp.float32), jnp.array(log_deviation, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert prior_divergence(jnp.zeros((3, 0)), jnp.zeros((3, 0))).tolist() == [0, 0, 0]


def test_members_weigh_as_much_as_they_depart_from_the_prior():
    weights = confidence_weights(jnp.array([[1.0, 0.0], [3.0, 0.0]]))
    np.testing.assert_allclose(weights, [[0.25, 0.5], [0.75, 0.5]])


class TestTeachers:
    def test_one_without_a_fault_prefers_the_larger_return(self):
        assert ask([[1, 1, 1], [2, 2, 0]])[1].min() == 1
        assert ask([[2, 2, 0], [1, 1, 1]])[1].max() == 0

    def test_preferences_are_as_likely_as_the_difference_says(self):
        _, preference, answered = ask([[0, 1], [1, 1]], rationality=[0.8])
        assert preference.mean() == pytest.approx(1 / (1 + np.exp(-0.8)), abs=0.015)
        assert answered.all()

    def test_a_myopic_one_goes_by_the_last_steps(self):
        rewards = [[5, 0, 0], [0, 0, 1]]
        assert ask(rewards)[1].max() == 0
        assert ask(rewards, myopia=[0.1])[1].min() == 1

    def test_mistakes_are_as_frequent_as_their_probability(self):
        assert ask([[0, 0], [1, 1]], mistakes=[0.3])[1].mean() == pytest.approx(0.7, abs=0.015)

    def test_ties_are_said_of_returns_that_are_close_and_are_never_mistaken(self):
        values = {"tie_within": [0.5], "mistakes": [0.5]}
        assert set(ask([[1.0], [1.4]], **values)[1]) == {0.5}
        assert set(ask([[1.0], [1.6]], **values)[1]) == {0, 1}
        assert set(ask([[1.0], [1.0]], mistakes=[0.5])[1]) == {0.5}

    def test_one_skips_where_neither_segment_is_worth_a_word(self):
        assert not ask([[0.2], [0.4]], skip_below=[0.5])[2].any()
        assert ask([[0.2], [0.6]], skip_below=[0.5])[2].all()

    def test_each_query_has_a_teacher_of_its_own(self):
        who, preference, _ = ask([[0], [1]], **dict.fromkeys(["rationality", "myopia"], [1e6] * 5) | FIVE)
        shares = np.bincount(who) / NUM
        np.testing.assert_allclose(shares, 0.2, atol=0.015)
        wrong = [np.mean(preference[who == teacher] == 0) for teacher in range(5)]
        np.testing.assert_allclose(wrong, FIVE["mistakes"], atol=0.03)


FIVE = {
    "myopia": [1.0] * 5,
    "mistakes": [0.1, 0.2, 0.3, 0.4, 0.5],
    "skip_below": [-1e9] * 5,
    "tie_within": [0.0] * 5,
}


def test_the_entropy_of_states_is_by_the_kth_nearest_other():
    rows = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    distances = np.sort(np.linalg.norm(rows[:, None] - rows[None], axis=-1), axis=1)
    found = state_entropy_reward(jnp.array(rows), 5, 0.25)
    np.testing.assert_allclose(found, np.log(0.25 + distances[:, 5]), rtol=1e-3)
    few = state_entropy_reward(jnp.array(rows[:3]), 5, 1.0)  # The furthest counts.
    np.testing.assert_allclose(few, np.log(1 + np.linalg.norm(rows[:3, None] - rows[:3], axis=-1).max(1)), rtol=1e-3)
