import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from podrl.ops.convolution import conv_3x3


def plain(images, kernel):
    return lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def random(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize(("channels_in", "channels_out"), [(4, 16), (16, 16), (16, 32), (1, 3), (32, 16)])
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (8, 6)])
def test_equals_the_plain_convolution_with_its_gradients(channels_in, channels_out, size):
    images, kernel = random(1, 3, *size, channels_in), random(2, 3, 3, channels_in, channels_out)
    weights = random(3, 3, *size, channels_out)

    def evaluate(convolution):
        output, vjp = jax.vjp(convolution, images, kernel)
        return output, *vjp(weights)

    for found, expected in zip(evaluate(conv_3x3), evaluate(plain), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5 * float(jnp.abs(expected).max()))


def test_few_channels_take_the_fast_path_of_the_cpu_backend():
    images, kernel = jnp.ones((8, 12, 12, 4)), jnp.ones((3, 3, 4, 16))
    compiled = jax.jit(conv_3x3).lower(images, kernel).compile().as_text()
    assert "17]" in compiled
    assert "conditional" not in compiled


def test_wide_convolutions_stay_as_they_are():
    images, kernel = jnp.ones((8, 12, 12, 32)), jnp.ones((3, 3, 32, 32))
    compiled = jax.jit(conv_3x3).lower(images, kernel).compile().as_text()
    assert "pad(" not in compiled
