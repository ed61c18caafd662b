"""Noisy layers: what noise is, who has the same, and that without it a layer is a plain one."""

import jax
from jax import numpy as jnp
import numpy as np

from podrl.networks import noisy as noisy_layers
from podrl.networks.noisy import NoisyDense

WIDTH, SIZE = 5, 3
with_noise = jax.jit(noisy_layers.with_noise)


def make(rows=4):
    layer = NoisyDense(SIZE, name=None)
    x = np.random.default_rng(0).normal(size=(rows, 2, WIDTH)).astype(np.float32)
    return layer, {"layer": jax.jit(layer.init)(jax.random.key(0), x)["params"]}, x


def apply(layer, params, x):
    return np.asarray(jax.jit(layer.apply)({"params": params["layer"]}, x))


def test_noise_is_the_product_of_one_number_for_the_input_and_one_for_the_output():
    layer, params, x = make()
    noisy = with_noise(params, jax.random.split(jax.random.key(1), 4))
    own = jax.device_get(noisy["layer"])
    for row in range(4):
        kernel = own["kernel"] + own["kernel_sigma"] * np.outer(own["noise_in"][row], own["noise_out"][row])
        bias = own["bias"] + own["bias_sigma"] * own["noise_out"][row]
        np.testing.assert_allclose(apply(layer, noisy, x)[row], x[row] @ kernel + bias, rtol=1e-4, atol=1e-5)
    plain = x @ own["kernel"] + own["bias"]
    np.testing.assert_allclose(apply(layer, params, x), plain, rtol=1e-4, atol=1e-5)


def test_each_key_has_noise_of_its_own_whatever_the_others_and_one_key_is_for_all():
    layer, params, x = make()
    keys = jax.random.split(jax.random.key(1), 4)
    four, two = with_noise(params, keys), with_noise(params, keys[2:])
    np.testing.assert_array_equal(four["layer"]["noise_in"][2:], two["layer"]["noise_in"])
    assert len(np.unique(four["layer"]["noise_out"][:, 0])) == 4
    one = apply(layer, with_noise(params, keys[:1]), x)
    np.testing.assert_allclose(one[0], apply(layer, four, x)[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        one[3], apply(layer, with_noise(params, keys[jnp.zeros(4, int)]), x)[3], rtol=1e-5, atol=1e-6
    )


def test_layers_differ_in_their_noise_and_others_have_none():
    _, params, _ = make()
    both = {"a": params["layer"], "b": params["layer"], "c": {"kernel": jnp.ones((2, 2))}}
    noisy = with_noise(both, jax.random.key(2)[None])
    assert np.any(np.asarray(noisy["a"]["noise_in"]) != np.asarray(noisy["b"]["noise_in"]))
    assert set(noisy["c"]) == {"kernel"}


def test_noise_is_the_signed_root_of_a_gaussian():
    _, params, _ = make()
    drawn = np.asarray(with_noise(params, jax.random.split(jax.random.key(3), 20_000))["layer"]["noise_in"])
    gaussian = np.sign(drawn) * drawn**2
    np.testing.assert_allclose([gaussian.mean(), gaussian.std()], [0, 1], atol=0.02)
    np.testing.assert_allclose(np.mean(drawn**2), np.sqrt(2 / np.pi), atol=0.02)  # E|e|.


def test_first_weights_and_scales_are_the_papers():
    params = NoisyDense(400).init(jax.random.key(0), np.zeros((1, 100), np.float32))["params"]
    for name in ("kernel", "bias"):
        assert 0.09 < np.abs(params[name]).max() <= 0.1
        np.testing.assert_allclose(params[f"{name}_sigma"], 0.05, rtol=1e-6)
