import functools
import re

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from podrl.networks.convolution import conv_3x3, conv_valid

YNNPACK = "--xla_cpu_experimental_ynn_fusion_type"


def plain(images, kernel, stride=1, padding="SAME"):
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(images, kernel, (stride, stride), padding, dimension_numbers=layout)


def random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def with_gradients(function, weights, *args, fixed=()):
    """The function's value, and what `weights` pulls back to its arguments, without the `fixed` first ones."""
    output, vjp = jax.vjp(functools.partial(function, *fixed), *args)
    return output, *vjp(weights)


def assert_equal(found, expected):
    """Equal to float rounding, beside the largest value."""
    for x, y in zip(found, expected, strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_allclose(x, y, atol=2e-5 * float(np.abs(np.asarray(y)).max()))


@pytest.mark.parametrize(("channels_in", "channels_out"), [(4, 16), (16, 16), (16, 32), (1, 3), (32, 16)])
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (8, 6)])
def test_equals_the_plain_convolution_with_its_gradients(channels_in, channels_out, size):
    images, kernel = random(1, 3, *size, channels_in), random(2, 3, 3, channels_in, channels_out)
    weights = random(3, 3, *size, channels_out)

    assert_equal(with_gradients(conv_3x3, weights, images, kernel), with_gradients(plain, weights, images, kernel))


def test_few_channels_take_the_fast_path_of_the_cpu_backend(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS")
    images, kernel = np.ones((8, 12, 12, 16), np.float32), np.ones((3, 3, 16, 16), np.float32)
    compiled = jax.jit(conv_3x3).lower(images, kernel).compile().as_text()
    assert "17]" in compiled
    assert "conditional" not in compiled


@pytest.mark.parametrize(("size", "flags", "is_widened"), [(14, "", True), (16, f"{YNNPACK}=", False)])
def test_without_that_path_they_stay_as_they_are(monkeypatch, size, flags, is_widened):
    """JAX keeps what it traced, whatever the flags: other tests have other sizes."""
    monkeypatch.setenv("XLA_FLAGS", flags)
    lowered = (
        jax.jit(conv_3x3).lower(np.ones((8, size, size, 16), np.float32), np.ones((3, 3, 16, 16), np.float32)).as_text()
    )
    assert (f"{size}x17x" in lowered) == is_widened


def test_images_of_few_channels_have_two_outputs_at_once_on_the_cpu_backend_only():
    arguments = np.ones((8, 12, 14, 4), np.float32), np.ones((3, 3, 4, 16), np.float32)
    gradient = jax.jit(jax.grad(lambda images, kernel: jnp.sum(conv_3x3(images, kernel) ** 2), 1))
    compiled = gradient.lower(*arguments).compile().as_text()
    assert re.search(r"= f32\[8,12,7,32\].* convolution\(.*window={size=3x4 stride=1x2", compiled)
    assert re.search(r"= f32\[48,32\].* dot\(", compiled)
    for platform in ("cuda", "tpu"):
        lowered = gradient.trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
        assert "8x12x7x32" not in lowered


def test_weight_gradients_are_products_of_matrices_as_they_lie_on_the_cpu_backend_only():
    arguments = np.ones((8, 12, 12, 16), np.float32), np.ones((3, 3, 16, 32), np.float32)
    gradient = jax.jit(jax.grad(lambda images, kernel: jnp.sum(conv_3x3(images, kernel) ** 2), 1))
    compiled = gradient.lower(*arguments).compile().as_text()
    (product,) = re.findall(r"= f32\[48,96\].* dot\(.*", compiled)
    assert "lhs_contracting_dims={0}, rhs_contracting_dims={0}" in product
    for platform in ("cuda", "tpu"):
        lowered = gradient.trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
        assert "stablehlo.convolution" in lowered
        assert "stablehlo.dot_general" not in lowered


def test_factors_of_weight_gradients_are_not_held_from_the_way_forward():
    """Of twelve layers; each has factors of six times its images."""

    def loss(kernel, images):
        for _ in range(12):
            images = jax.nn.relu(conv_3x3(images, kernel))
        return jnp.sum(images)

    images, kernel = np.ones((32, 24, 24, 32), np.float32), np.ones((3, 3, 32, 32), np.float32)
    compiled = jax.jit(jax.grad(loss)).lower(kernel, images).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 40 * images.nbytes


def test_wide_convolutions_stay_as_they_are():
    images, kernel = np.ones((8, 12, 12, 32), np.float32), np.ones((3, 3, 32, 32), np.float32)
    compiled = jax.jit(conv_3x3).lower(images, kernel).compile().as_text()
    assert "pad(" not in compiled


NATURE_LAYERS = [(8, 4, 4, 32), (4, 2, 32, 64), (3, 1, 64, 64)]  # Kernel, stride, channels in and out.


@pytest.mark.parametrize(
    ("size", "stride", "channels_in", "channels_out"), [*NATURE_LAYERS, (2, 2, 3, 5), (1, 1, 1, 1)]
)
@pytest.mark.parametrize(("height", "width"), [(8, 13), (21, 10)])
def test_unpadded_equals_the_plain_convolution_with_its_gradients(
    size, stride, channels_in, channels_out, height, width
):
    images, kernel = random(1, 3, height, width, channels_in), random(2, size, size, channels_in, channels_out)

    def expected(images, kernel):
        return plain(images, kernel, stride, "VALID")

    weights = random(3, *jax.eval_shape(expected, images, kernel).shape)
    assert_equal(
        with_gradients(lambda images, kernel: conv_valid(images, kernel, stride), weights, images, kernel),
        with_gradients(expected, weights, images, kernel),
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("size", "stride", "channels"), [(8, 4, 4), (8, 4, 3), (4, 2, 1), (3, 1, 10)])
def test_unpadded_takes_bytes(size, stride, channels, dtype):
    """Blocks of 16, 12, 2 and 10 bytes: of whole words and not."""
    images = np.random.default_rng(1).integers(0, 256, (3, 21, 16, channels), np.uint8)
    kernel = random(2, size, size, channels, 32).astype(dtype)

    def expected(images, kernel):
        return plain(images.astype(dtype), kernel, stride, "VALID")

    weights = random(3, *jax.eval_shape(expected, images, kernel).shape).astype(dtype)
    assert_equal(
        with_gradients(lambda images, kernel: conv_valid(images, kernel, stride), weights, kernel, fixed=(images,)),
        with_gradients(expected, weights, kernel, fixed=(images,)),
    )


def test_unpadded_is_a_product_of_matrices_on_the_cpu_backend_only():
    arguments = np.ones((8, 20, 20, 4), np.uint8), np.ones((8, 8, 4, 32), np.float32)

    def lowered(platform):
        traced = jax.jit(jax.grad(lambda images, kernel: jnp.sum(conv_valid(images, kernel, 4)), 1)).trace(*arguments)
        return traced.lower(lowering_platforms=(platform,)).as_text()

    assert "stablehlo.convolution" not in lowered("cpu")
    for platform in ("cuda", "tpu"):
        assert "stablehlo.convolution" in lowered(platform)
        assert "stablehlo.dot_general" not in lowered(platform)


def test_unpadded_weight_gradients_keep_their_fast_order_of_factors():
    images, kernel = np.ones((8, 20, 20, 4), np.float32), np.ones((8, 8, 4, 32), np.float32)
    gradient = jax.grad(lambda images, kernel: jnp.sum(conv_valid(images, kernel, 4) ** 2), 1)
    compiled = jax.jit(gradient).lower(images, kernel).compile().as_text()
    products = re.findall(r"= (f32\[[\d,]+\])\S* dot\(", compiled)
    assert sorted(products) == ["f32[128,32]", "f32[32,256]"]  # The output and the kernel's gradient.


def test_unpadded_kernels_must_be_a_multiple_of_their_stride():
    with pytest.raises(ValueError, match="size 3 is not a multiple of its stride, 2"):
        conv_valid(np.ones((1, 9, 9, 1), np.float32), np.ones((3, 3, 1, 1), np.float32), 2)
