"""Gaussians and squashed Gaussians against sums over a fine grid, by sampling, and at extreme parameters."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from podrl.ops.categorical import make_categorical, make_multi_categorical
from podrl.ops.gaussian import MIN_SCALE, bound_mean, make_gaussian
from podrl.ops.hybrid import make_hybrid

CASES = list(itertools.product((False, True), [(0.0, 0.5), (-0.7, 0.1), (1.5, 1.0)]))


def compiled_gaussian(size, **options):
    """With its functions compiled: eagerly, each operation would be a program of its own."""
    made = make_gaussian(size, **options)
    functions = {name: jax.jit(x) for name, x in vars(made).items() if callable(x)}
    return dataclasses.replace(made, **functions)


PLAIN, SQUASHED = (compiled_gaussian(1, squash=squash, initial_scale=1.0) for squash in (False, True))


def family(squash):
    return SQUASHED if squash else PLAIN


def params(mean, scale):
    """Of one Gaussian of which softplus(raw + log(e^(1 - MIN_SCALE) - 1)) + MIN_SCALE is the scale."""
    raw = np.log(np.expm1(scale - MIN_SCALE)) - np.log(np.expm1(1 - MIN_SCALE))
    return np.array([mean, raw], np.float32)


def grid(squash, mean, scale):
    """Actions that cover all but a millionth of the probability, in float64, and the width of each one's cell."""
    edges = mean + scale * np.linspace(-5, 5, 20_001)
    if squash:
        edges = np.tanh(edges)
    return (edges[1:] + edges[:-1]) / 2, np.diff(edges)


def density(squash, mean, scale, action):
    u = np.arctanh(action) if squash else action
    gaussian = np.exp(-0.5 * ((u - mean) / scale) ** 2) / (scale * np.sqrt(2 * np.pi))
    return gaussian / (1 - action**2) if squash else gaussian


@pytest.mark.parametrize(("squash", "case"), CASES)
def test_log_prob_is_that_of_the_samples_and_sums_to_one(squash, case):
    action, width = grid(squash, *case)
    kept = slice(None, None, 50)
    found = family(squash).log_prob(np.broadcast_to(params(*case), (400, 2)), action[kept, None].astype(np.float32))
    # To the last digits that an action near 1 has in float32, whose own rounding the density multiplies.
    np.testing.assert_allclose(found, np.log(density(squash, *case, action[kept])), atol=0.02)
    np.testing.assert_allclose(np.sum(density(squash, *case, action) * width), 1, atol=1e-4)


@pytest.mark.parametrize(("squash", "case"), CASES)
def test_entropy(squash, case):
    action, width = grid(squash, *case)
    p = density(squash, *case, action)
    np.testing.assert_allclose(family(squash).entropy(params(*case)), -np.sum(p * np.log(p) * width), atol=1e-3)


@pytest.mark.parametrize(("squash", "case"), CASES)
def test_kl(squash, case):
    other = (0.3, 0.7)
    action, width = grid(squash, *case)
    p, q = density(squash, *case, action), density(squash, *other, action)
    expected = np.sum(p * np.log(p / q) * width)
    np.testing.assert_allclose(family(squash).kl(params(*case), params(*other)), expected, rtol=2e-3, atol=1e-4)
    assert family(squash).kl(params(*case), params(*case)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("squash", "case"), CASES)
def test_sample_frequencies(squash, case):
    keys = jax.random.split(jax.random.key(0), 20_000)
    action = np.asarray(family(squash).sample(keys, np.broadcast_to(params(*case), (20_000, 2))))
    assert (action.shape, action.dtype) == ((20_000, 1), jnp.float32)
    u = np.arctanh(np.float64(action)) if squash else action
    np.testing.assert_allclose((u.mean(), u.std()), case, atol=0.03)
    np.testing.assert_allclose(np.mean(u < case[0] + case[1]), 0.8413, atol=0.01)


def test_a_sample_depends_on_its_key_alone_and_entries_are_independent():
    distribution = compiled_gaussian(3, squash=False, initial_scale=1.0)
    keys, parameters = jax.random.split(jax.random.key(1), 4000), np.zeros((4000, 6), np.float32)
    whole = np.asarray(distribution.sample(keys, parameters))
    np.testing.assert_array_equal(whole[8:16], distribution.sample(keys[8:16], parameters[8:16]))
    np.testing.assert_allclose(np.corrcoef(whole.T), np.eye(3), atol=0.06)


def test_several_entries_add_up():
    case, other = (-0.7, 0.1), (1.5, 1.0)
    both = np.stack([params(*case), params(*other)], axis=1).reshape(1, 4)
    action = np.array([[-0.6, 0.3]], np.float32)
    for squash in (False, True):
        one, two = family(squash), compiled_gaussian(2, squash=squash, initial_scale=1.0)
        parts = [(params(*case), action[:, :1]), (params(*other), action[:, 1:])]
        log_prob = sum(one.log_prob(p[None], a) for p, a in parts)
        np.testing.assert_allclose(two.log_prob(both, action), log_prob, rtol=1e-5)
        np.testing.assert_allclose(two.entropy(both), [sum(one.entropy(p) for p, _ in parts)], rtol=1e-5)


def test_zeros_are_the_initial_scale():
    for scale in (0.05, 1.0, 3.0):
        distribution = compiled_gaussian(1, squash=False, initial_scale=scale)
        entropy = 0.5 * np.log(2 * np.pi * np.e * scale**2)
        np.testing.assert_allclose(distribution.entropy(np.zeros(2, np.float32)), entropy, atol=1e-3)


def test_mode():
    np.testing.assert_allclose(PLAIN.mode(np.array([1.5, 0.3], np.float32)), [1.5])
    np.testing.assert_allclose(SQUASHED.mode(np.array([1.5, 0.3], np.float32)), [np.tanh(1.5)], rtol=1e-6)


@pytest.mark.parametrize("squash", [False, True])
def test_values_and_gradients_are_finite_at_extreme_parameters(squash):
    distribution, x = family(squash), np.array(list(itertools.product((-1e4, 0.0, 1e4), repeat=2)), np.float32)
    functions = [
        distribution.entropy,
        lambda p: distribution.kl(p, jnp.zeros(2)),
        lambda p: distribution.kl(jnp.zeros(2), p),
        *[lambda p, a=a: distribution.log_prob(p, jnp.array([a])) for a in (-1.0, 0.0, 1.0, 30.0)],
    ]
    for function in functions:
        value, grad = jax.jit(jax.vmap(jax.value_and_grad(function)))(x)
        assert np.isfinite(value).all()
        assert np.isfinite(grad).all()
    assert np.isfinite(distribution.sample(jax.random.split(jax.random.key(0), 9), x)).all()


def test_bfloat16_parameters_give_float32():
    assert SQUASHED.entropy(jnp.zeros((3, 2), jnp.bfloat16)).dtype == jnp.float32
    assert SQUASHED.log_prob(jnp.zeros((3, 2), jnp.bfloat16), jnp.zeros((3, 1))).dtype == jnp.float32


@pytest.mark.parametrize("squash", [False, True])
def test_a_sample_and_its_log_probability_are_those_of_the_distribution(squash):
    made = compiled_gaussian(3, squash=squash, initial_scale=0.5)
    keys = jax.random.split(jax.random.key(0), 200)
    outputs = np.random.default_rng(1).normal(size=(200, 6)).astype(np.float32)
    action, log_prob = made.sample_and_log_prob(keys, outputs)
    np.testing.assert_allclose(action, made.sample(keys, outputs), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(log_prob, made.log_prob(outputs, action), atol=2e-2, rtol=1e-3)


def test_the_log_probability_of_a_sample_is_exact_where_its_action_is_rounded_to_one():
    """Far out tanh(u) is 1 in float32, from which u cannot be had back."""
    keys, mean = jax.random.split(jax.random.key(0), 50), 30.0
    outputs = np.tile(params(mean, 0.5), (50, 1))
    action, log_prob = SQUASHED.sample_and_log_prob(keys, outputs)
    assert (np.asarray(action) == 1).all()
    u = np.float64(PLAIN.sample(keys, outputs))[:, 0]
    log_slope = 2 * (np.log(2) - u - np.log1p(np.exp(-2 * u)))
    exact = -0.5 * ((u - mean) / 0.5) ** 2 - np.log(0.5 * np.sqrt(2 * np.pi)) - log_slope
    np.testing.assert_allclose(log_prob, exact, rtol=1e-5)


def test_gradients_flow_through_a_sample_and_its_log_probability():
    """With u = mean + scale z the density's exponent is -z^2/2, whatever the parameters."""
    key, place = jax.random.split(jax.random.key(3), 1), jnp.asarray(params(0.4, 0.6))[None]

    def parts(outputs):
        action, log_prob = SQUASHED.sample_and_log_prob(key, outputs)
        return jnp.stack([action[0, 0], log_prob[0]])

    action = float(parts(place)[0])
    slopes = np.asarray(jax.jacobian(parts)(place))[:, 0]
    z = (np.arctanh(action) - 0.4) / 0.6
    dscale = 1 / (1 + np.exp(-float(np.log(np.expm1(0.6 - MIN_SCALE)))))  # Of softplus, by the raw scale.
    np.testing.assert_allclose(slopes[0], (1 - action**2) * np.array([1, z * dscale]), rtol=1e-3)
    np.testing.assert_allclose(slopes[1], [2 * action, (2 * action * z - 1 / 0.6) * dscale], rtol=1e-3)


@pytest.mark.parametrize("kind", ["one", "several", "hybrid"])
def test_those_of_choices_are_consistent_too(kind):
    made = {
        "one": make_categorical(4),
        "several": make_multi_categorical((2, 3)),
        "hybrid": make_hybrid((2, 3), make_gaussian(2, squash=False, initial_scale=1.0)),
    }[kind]
    keys = jax.random.split(jax.random.key(0), 100)
    outputs = np.random.default_rng(1).normal(size=(100, made.num_params)).astype(np.float32)
    action, log_prob = jax.jit(made.sample_and_log_prob)(keys, outputs)
    np.testing.assert_allclose(action, jax.jit(made.sample)(keys, outputs), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(log_prob, made.log_prob(outputs, action), rtol=1e-4, atol=1e-5)


def test_a_bounded_mean_is_the_tangent_of_the_parameter_and_nothing_else_is_squashed():
    bounded, keys = bound_mean(PLAIN), jax.random.split(jax.random.key(0), 1000)
    given, meant = params(1.2, 0.4), params(np.tanh(1.2), 0.4)
    many = np.broadcast_to(given, (1000, 2))
    action = bounded.sample(keys, many)
    assert np.abs(action).max() > 1
    np.testing.assert_allclose(action, PLAIN.sample(keys, np.broadcast_to(meant, (1000, 2))), rtol=1e-5, atol=1e-6)
    drawn, log_prob = bounded.sample_and_log_prob(keys, many)
    np.testing.assert_allclose(drawn, action, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(log_prob, bounded.log_prob(many, action), rtol=1e-5)
    np.testing.assert_allclose(bounded.mode(given), [np.tanh(1.2)], rtol=1e-6)
    expected = -0.5 * ((1.0 - np.tanh(1.2)) / 0.4) ** 2 - np.log(0.4 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(bounded.log_prob(given, np.ones(1, np.float32)), expected, rtol=1e-5)
    np.testing.assert_allclose(bounded.entropy(given), PLAIN.entropy(meant), rtol=1e-6)
    other = params(-0.3, 0.2)
    bound_other = params(np.tanh(-0.3), 0.2)
    np.testing.assert_allclose(bounded.kl(given, other), PLAIN.kl(meant, bound_other), rtol=1e-5)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5),
        *(bounded.kl_parts(given, other), PLAIN.kl_parts(meant, bound_other)),
    )
