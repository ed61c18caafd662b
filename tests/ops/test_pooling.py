"""Our max-pooling against Flax's, value and gradient bit for bit."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from podrl.networks.pooling import max_pool_3x3_stride_2

SHAPES = [(2, 84, 84, 3), (2, 21, 21, 4), (3, 11, 8, 2), (1, 5, 6, 1), (2, 2, 3, 1), (1, 1, 1, 2)]


@jax.jit
def oracle(x):
    return nn.max_pool(x, (3, 3), (2, 2), "SAME")


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradient(pool, x, grad):
    value, vjp = jax.vjp(pool, x)
    return value, vjp(grad)[0]


def images(kind, shape):
    """Images with no ties, with many ties, or with nothing but ties."""
    x = noise(0, shape)
    return {"distinct": x, "ties": np.maximum(np.round(x), 0), "zeros": np.zeros_like(x)}[kind]


def noise(seed, shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("kind", ["distinct", "ties", "zeros"])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_flax_bit_for_bit(shape, kind):
    x = images(kind, shape)
    expected = oracle(x)
    grad = noise(1, expected.shape)
    np.testing.assert_array_equal(jax.jit(max_pool_3x3_stride_2)(x), expected)
    value, gradient = value_and_gradient(max_pool_3x3_stride_2, x, grad)
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_array_equal(gradient, value_and_gradient(oracle, x, grad)[1])


@pytest.mark.parametrize("kind", ["distinct", "ties"])
def test_bfloat16(kind):
    x = images(kind, (2, 21, 21, 4)).astype(jnp.bfloat16)
    grad = noise(1, oracle(x).shape).astype(jnp.bfloat16)
    value, gradient = value_and_gradient(max_pool_3x3_stride_2, x, grad)
    _, expected = value_and_gradient(oracle, x.astype(np.float32), grad.astype(np.float32))
    assert value.dtype == gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(value, oracle(x))
    np.testing.assert_allclose(np.asarray(gradient, np.float32), expected, rtol=0.02, atol=0.05)


def test_nan_is_seen_with_and_without_gradient():
    x = jnp.zeros((1, 6, 6, 2)).at[..., 1].set(jnp.nan)  # A channel whose kernel has diverged.
    grad = jnp.ones((1, 3, 3, 2))
    np.testing.assert_array_equal(jax.jit(max_pool_3x3_stride_2)(x), oracle(x))
    np.testing.assert_array_equal(value_and_gradient(max_pool_3x3_stride_2, x, grad)[0], oracle(x))


def test_gradient_gathers_only():
    x = jnp.zeros((2, 21, 21, 4))

    def programs(pool):
        lowered = jax.jit(jax.grad(lambda x: pool(x).sum())).lower(x)
        return (lowered.as_text() + lowered.compile().as_text()).replace("-", "_")

    assert "select_and_scatter" in programs(oracle)
    assert "scatter" not in programs(max_pool_3x3_stride_2)
