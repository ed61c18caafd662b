"""Two-hot codes by hand, and against rlax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from podrl.ops.two_hot import decode_number, encode_number, two_hot


def test_two_neighbouring_bins_share_a_number():
    found = two_hot(jnp.array([0.25, -1.75, 2.0, 7.0, -7.0]), 5)
    expected = [[0, 0, 0.75, 0.25, 0], [0.75, 0.25, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [1, 0, 0, 0, 0]]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_numbers_are_rescaled_first():
    """By hand: h(3) = 1.003, see `rescale_value`."""
    np.testing.assert_allclose(encode_number(jnp.array([[3.0]]), 5), [[[0, 0, 0, 0.997, 0.003]]], atol=1e-6)
    logits = jnp.log(jnp.array([0, 0, 0, 0.997, 0.003]) + 1e-30)
    assert decode_number(logits) == pytest.approx(3.0, rel=1e-5)


def test_what_is_encoded_is_decoded_and_no_bin_has_a_favourite():
    numbers = np.concatenate([-(10.0 ** np.arange(-3, 5)), [0.0], 10.0 ** np.arange(-3, 5)]).astype(np.float32)
    back = decode_number(jnp.log(encode_number(jnp.asarray(numbers), 601) + 1e-30))
    np.testing.assert_allclose(back, numbers, rtol=1e-3, atol=1e-4)
    assert decode_number(jnp.zeros(21)) == pytest.approx(0.0, abs=1e-6)


def test_equals_rlax():
    rlax = pytest.importorskip("rlax")
    numbers = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32) * 60
    expected = jax.vmap(lambda x: rlax.transform_to_2hot(rlax.signed_hyperbolic(x, 1e-3), -10, 10, 21))(numbers.ravel())
    np.testing.assert_allclose(encode_number(numbers, 21).reshape(-1, 21), expected, atol=1e-5)
    probabilities = np.random.default_rng(1).dirichlet(np.ones(21), size=9).astype(np.float32)
    means = rlax.transform_from_2hot(probabilities, -10, 10, 21)
    np.testing.assert_allclose(decode_number(jnp.log(probabilities)), rlax.signed_parabolic(means, 1e-3), rtol=1e-3)


def test_an_even_number_of_bins_has_none_for_zero():
    with pytest.raises(ValueError, match="Found 20 bins; expected an odd number"):
        two_hot(jnp.zeros(()), 20)


@pytest.mark.parametrize("num_bins", [21, 601])
def test_what_is_as_likely_above_zero_as_below_is_exactly_zero(num_bins):
    """An advantage of nothing must not be positive by rounding: whether an action is imitated goes by its sign."""
    half = np.random.default_rng(0).normal(size=(100, num_bins // 2)).astype(np.float32)
    logits = np.concatenate([half, np.zeros((100, 1), np.float32), half[:, ::-1]], axis=-1)
    assert not np.any(jax.jit(decode_number)(logits))
