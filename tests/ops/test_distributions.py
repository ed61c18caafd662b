"""The categorical distribution against numpy in float64, with impossible actions, and by its sampling frequencies."""

import jax
import jax.numpy as jnp
import numpy as np

from podrl.ops import distributions

LOGITS = np.random.default_rng(0).normal(scale=2, size=(5, 3, 4)).astype(np.float32)
OTHER = np.random.default_rng(1).normal(scale=2, size=(5, 3, 4)).astype(np.float32)


def probabilities(logits):
    weights = np.exp(logits.astype(np.float64))
    return weights / weights.sum(-1, keepdims=True)


def test_equals_numpy():
    p, q = probabilities(LOGITS), probabilities(OTHER)
    action = np.random.default_rng(2).integers(4, size=(5, 3)).astype(np.int32)
    taken = np.take_along_axis(p, action[..., None], -1)[..., 0]
    np.testing.assert_allclose(distributions.categorical_log_prob(LOGITS, action), np.log(taken), atol=1e-5)
    np.testing.assert_allclose(distributions.categorical_entropy(LOGITS), -(p * np.log(p)).sum(-1), atol=1e-5)
    np.testing.assert_allclose(distributions.categorical_kl(LOGITS, OTHER), (p * np.log(p / q)).sum(-1), atol=1e-5)


def test_impossible_action():
    logits = jnp.array([[0.0, 0.0, -jnp.inf]])
    np.testing.assert_allclose(distributions.categorical_entropy(logits), [np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(distributions.categorical_kl(logits, jnp.zeros((1, 3))), [np.log(1.5)], rtol=1e-5)
    np.testing.assert_allclose(distributions.categorical_log_prob(logits, jnp.array([1])), [-np.log(2)], rtol=1e-6)
    for function in (
        distributions.categorical_entropy,
        lambda x: distributions.categorical_kl(x, jnp.zeros((1, 3))),
        lambda x: distributions.categorical_log_prob(x, jnp.array([1])),
    ):
        assert np.isfinite(jax.grad(lambda x, f=function: f(x).sum())(logits)).all()


def test_bfloat16_logits_give_float32():
    assert distributions.categorical_entropy(jnp.zeros((2, 3), jnp.bfloat16)).dtype == jnp.float32


def test_sample_frequencies():
    logits = jnp.array([0.0, 1.0, 2.0])
    keys = jax.random.split(jax.random.key(0), 20_000)
    action = distributions.sample_categorical(keys, jnp.broadcast_to(logits, (20_000, 3)))
    assert action.shape == (20_000,)
    assert action.dtype == jnp.int32
    np.testing.assert_allclose(np.bincount(action) / 20_000, jax.nn.softmax(logits), atol=0.015)


def test_sample_does_not_depend_on_the_rest_of_the_batch():
    keys = jax.random.split(jax.random.key(1), 64)
    logits = jax.random.normal(jax.random.key(2), (64, 5))
    whole = distributions.sample_categorical(keys, logits)
    parts = [distributions.sample_categorical(keys[i : i + 8], logits[i : i + 8]) for i in range(0, 64, 8)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    assert len(np.unique(whole)) == 5
