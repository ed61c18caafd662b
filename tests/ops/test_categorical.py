"""Categorical distributions against numpy in float64, with impossible actions, and by its sampling frequencies."""

import jax
import jax.numpy as jnp
import numpy as np

from podrl.ops import categorical

LOGITS = np.random.default_rng(0).normal(scale=2, size=(5, 3, 4)).astype(np.float32)
OTHER = np.random.default_rng(1).normal(scale=2, size=(5, 3, 4)).astype(np.float32)


def probabilities(logits):
    weights = np.exp(logits.astype(np.float64))
    return weights / weights.sum(-1, keepdims=True)


def test_equals_numpy():
    p, q = probabilities(LOGITS), probabilities(OTHER)
    action = np.random.default_rng(2).integers(4, size=(5, 3)).astype(np.int32)
    taken = np.take_along_axis(p, action[..., None], -1)[..., 0]
    np.testing.assert_allclose(categorical.categorical_log_prob(LOGITS, action), np.log(taken), atol=1e-5)
    np.testing.assert_allclose(categorical.categorical_entropy(LOGITS), -(p * np.log(p)).sum(-1), atol=1e-5)
    np.testing.assert_allclose(categorical.categorical_kl(LOGITS, OTHER), (p * np.log(p / q)).sum(-1), atol=1e-5)


def test_impossible_action():
    logits = jnp.array([[0.0, 0.0, -jnp.inf]])
    np.testing.assert_allclose(categorical.categorical_entropy(logits), [np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(categorical.categorical_kl(logits, jnp.zeros((1, 3))), [np.log(1.5)], rtol=1e-5)
    np.testing.assert_allclose(categorical.categorical_log_prob(logits, jnp.array([1])), [-np.log(2)], rtol=1e-6)
    for function in (
        categorical.categorical_entropy,
        lambda x: categorical.categorical_kl(x, jnp.zeros((1, 3))),
        lambda x: categorical.categorical_log_prob(x, jnp.array([1])),
    ):
        assert np.isfinite(jax.grad(lambda x, f=function: f(x).sum())(logits)).all()


def test_bfloat16_logits_give_float32():
    assert categorical.categorical_entropy(jnp.zeros((2, 3), jnp.bfloat16)).dtype == jnp.float32


def test_sample_frequencies():
    logits = jnp.array([0.0, 1.0, 2.0])
    keys = jax.random.split(jax.random.key(0), 20_000)
    action = categorical.sample_categorical(keys, jnp.broadcast_to(logits, (20_000, 3)))
    assert action.shape == (20_000,)
    assert action.dtype == jnp.int32
    np.testing.assert_allclose(np.bincount(action) / 20_000, jax.nn.softmax(logits), atol=0.015)


def test_sample_does_not_depend_on_the_rest_of_the_batch():
    keys = jax.random.split(jax.random.key(1), 64)
    logits = jax.random.normal(jax.random.key(2), (64, 5))
    whole = categorical.sample_categorical(keys, logits)
    parts = [categorical.sample_categorical(keys[i : i + 8], logits[i : i + 8]) for i in range(0, 64, 8)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    assert len(np.unique(whole)) == 5


NUMS = (2, 4, 3)
SEVERAL = categorical.make_multi_categorical(NUMS)


def joint(logits):
    """[prod(NUMS)] probabilities of every combination of the choices, the last running fastest."""
    first, second, third = (probabilities(part) for part in np.split(logits, (2, 6)))
    return np.einsum("i,j,k->ijk", first, second, third).ravel()


def test_several_choices_equal_one_among_all_combinations():
    logits, other = np.random.default_rng(3).normal(size=(2, 9)).astype(np.float32)
    p, q = joint(logits), joint(other)
    every = np.stack(np.unravel_index(np.arange(24), NUMS), axis=-1).astype(np.int32)
    assert SEVERAL.num_params == 9
    log_probs = SEVERAL.log_prob(jnp.broadcast_to(logits, (24, 9)), every)
    np.testing.assert_allclose(log_probs, np.log(p), atol=1e-5)
    np.testing.assert_allclose(SEVERAL.entropy(logits), -(p * np.log(p)).sum(), atol=1e-5)
    np.testing.assert_allclose(SEVERAL.kl(logits, other), (p * np.log(p / q)).sum(), atol=1e-5)
    np.testing.assert_array_equal(SEVERAL.mode(logits), every[p.argmax()])


def test_several_choices_are_sampled_independently_of_each_other_and_of_the_batch():
    logits = np.random.default_rng(4).normal(size=9).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 20_000)
    action = SEVERAL.sample(keys, jnp.broadcast_to(logits, (20_000, 9)))
    assert (action.shape, action.dtype) == ((20_000, 3), jnp.int32)
    index = np.ravel_multi_index(np.asarray(action).T, NUMS)
    np.testing.assert_allclose(np.bincount(index, minlength=24) / 20_000, joint(logits), atol=0.015)
    np.testing.assert_array_equal(SEVERAL.sample(keys[:3], jnp.broadcast_to(logits, (3, 9))), action[:3])


def test_impossible_choices_among_several_leave_gradients_finite():
    logits = jnp.array([0.0, -jnp.inf, 1e4, -1e4, 0.0, 0.0, 1.0, 2.0, 3.0])
    for function in (
        SEVERAL.entropy,
        lambda x: SEVERAL.log_prob(x, jnp.array([0, 1, 2])),
        lambda x: SEVERAL.kl(x, jnp.zeros(9)),
    ):
        value, grad = jax.value_and_grad(function)(logits)
        assert np.isfinite(value)
        assert np.isfinite(grad).all()
