"""Augmentation against loops over pixels, the statistics of its draws, and the same result on any number of devices."""

import functools

import jax
from jax import numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
import pytest

from podrl.ops.augment import random_cutout, random_intensity, random_noise, random_shift

ALL = {
    "shift": functools.partial(random_shift, padding=2),
    "cutout": functools.partial(random_cutout, size=3),
    "intensity": functools.partial(random_intensity, scale=0.2),
    "noise": functools.partial(random_noise, scale=0.1),
}


def make_images(*shape, dtype=np.uint8, seed=0):
    drawn = np.random.default_rng(seed).integers(1, 255, shape)
    return drawn.astype(dtype) if dtype == np.uint8 else (drawn / 255).astype(dtype)


def shifted(image, padding, down, right):
    """The crop of an image padded by replication, pixel by pixel."""
    height, width = image.shape[:2]
    out = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            from_row, from_column = row + down - padding, column + right - padding
            out[row, column] = image[min(max(from_row, 0), height - 1), min(max(from_column, 0), width - 1)]
    return out


def shift_of(image, result, padding):
    """The crop's corner (down, right) that an image's shift has taken; fails if there is none."""
    places = [(down, right) for down in range(2 * padding + 1) for right in range(2 * padding + 1)]
    found = [place for place in places if np.array_equal(shifted(image, padding, *place), result)]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_shift_is_a_crop_of_the_image_padded_by_replication(dtype):
    images = make_images(12, 7, 9, 2, dtype=dtype)
    results = random_shift(jax.random.key(0), images, padding=2)
    assert (results.shape, results.dtype) == (images.shape, images.dtype)
    places = [shift_of(image, np.asarray(result), 2) for image, result in zip(images, results, strict=True)]
    assert len(set(places)) > 6


def test_all_shifts_are_equally_likely_and_each_images_own():
    """The standard deviation of a count is 9: rows and columns of an image that counts them tell its shift."""
    padding, num = 1, 900
    image = np.stack(np.meshgrid(np.arange(5), np.arange(5), indexing="ij"), axis=-1).astype(np.uint8)
    middle = np.asarray(random_shift(jax.random.key(1), np.broadcast_to(image, (num, 5, 5, 2)), padding=padding))[
        :, 2, 2
    ]
    counts = np.zeros((3, 3))
    np.add.at(counts, tuple((middle.astype(int) - 1).T), 1)
    np.testing.assert_allclose(counts, num / 9, atol=45)


def test_no_padding_leaves_images_as_they_are():
    images = make_images(3, 5, 5, 1)
    np.testing.assert_array_equal(random_shift(jax.random.key(0), images, padding=0), images)


@pytest.mark.parametrize("size", [3, 4])
def test_a_cutout_is_a_square_of_zeros_around_a_pixel_of_the_image(size):
    images = make_images(400, 8, 6, 2)
    results = np.asarray(random_cutout(jax.random.key(0), images, size=size))
    centres = set()
    for image, result in zip(images, results, strict=True):
        matching = []
        for row in range(8):
            for column in range(6):
                expected = image.copy()
                top, left = row - size // 2, column - size // 2
                expected[max(top, 0) : top + size, max(left, 0) : left + size] = 0
                matching += [(row, column)] if np.array_equal(expected, result) else []
        assert len(matching) == 1
        centres.update(matching)
    assert len(centres) == 48


def test_intensity_multiplies_an_image_by_one_factor_clipped_at_two_deviations():
    images = make_images(2000, 2, 2, 1, dtype=np.float32)
    factors = np.asarray(random_intensity(jax.random.key(0), images, scale=0.1)) / images
    np.testing.assert_allclose(factors, np.broadcast_to(factors[:, :1, :1], factors.shape), rtol=1e-5)
    z = (factors[:, 0, 0, 0] - 1) / 0.1
    np.testing.assert_allclose([z.min(), z.max()], [-2, 2], atol=1e-4)
    np.testing.assert_allclose([z.mean(), z.std()], [0, 0.96], atol=0.07)  # Clipping takes 0.04 of the deviation.


def test_intensity_of_bytes_is_rounded_and_ends_at_white():
    images, key = make_images(50, 3, 3, 1), jax.random.key(3)
    exact = np.asarray(random_intensity(key, images.astype(np.float32), scale=0.3))
    results = np.asarray(random_intensity(key, images, scale=0.3))
    assert results.dtype == np.uint8
    np.testing.assert_array_equal(results, np.clip(np.round(exact), 0, 255))
    assert (exact > 255).any()


@pytest.mark.parametrize(("dtype", "unit"), [(np.uint8, 255), (np.float32, 1)])
def test_noise_has_the_deviation_asked_for_and_is_each_pixels_own(dtype, unit):
    images = np.full((100, 10, 10, 2), 128 if dtype == np.uint8 else 0.5, dtype)
    results = np.asarray(random_noise(jax.random.key(0), images, scale=0.1), np.float64)
    added = (results - images) / unit
    np.testing.assert_allclose([added.mean(), added.std()], [0, 0.1], atol=0.004)
    apart = np.corrcoef(added.reshape(100, -1)[:, :20].T)
    assert np.abs(apart - np.eye(20)).max() < 0.5


def test_noise_keeps_bytes_within_their_range():
    """A byte that wrapped around would be far from where it was."""
    images = np.concatenate([np.zeros((1, 20, 20, 1), np.uint8), np.full((1, 20, 20, 1), 255, np.uint8)])
    results = np.asarray(random_noise(jax.random.key(0), images, scale=0.1))
    assert results[0].max() < 160 < results[1].min()
    assert (results[0] == 0).any()
    assert (results[1] == 255).any()


@pytest.mark.parametrize("name", ALL)
def test_images_of_one_key_share_its_draw_and_others_have_their_own(name):
    """Keys [K...] are those of the first leading axes; what one key does is the same in any batch."""
    same = np.broadcast_to(make_images(6, 6, 2), (4, 2, 3, 6, 6, 2))
    keys = jax.random.split(jax.random.key(2), (4, 2))
    results = np.asarray(ALL[name](keys, same))
    np.testing.assert_array_equal(results, np.broadcast_to(results[:, :, :1], results.shape))
    assert len(np.unique(results[:, :, 0].reshape(8, -1), axis=0)) > 4
    np.testing.assert_array_equal(ALL[name](keys[2, 1], same[2, 1, 0]), results[2, 1, 0])
    np.testing.assert_array_equal(ALL[name](keys[1:3], same[1:3]), results[1:3])


@pytest.mark.parametrize("name", ALL)
def test_one_key_gives_every_image_a_draw_of_its_own(name):
    same = np.broadcast_to(make_images(6, 6, 2), (3, 4, 6, 6, 2))
    results = np.asarray(ALL[name](jax.random.key(0), same)).reshape(12, -1)
    assert len(np.unique(results, axis=0)) > 6


@pytest.mark.parametrize("name", ALL)
def test_results_are_the_same_on_one_and_eight_devices(name):
    images = make_images(16, 2, 6, 6, 3)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    by_device = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
    for key in (jax.random.key(0), jax.random.split(jax.random.key(1), 16)):
        results = ALL[name](key, by_device)
        np.testing.assert_array_equal(results, ALL[name](key, images))
        assert results.sharding.is_equivalent_to(by_device.sharding, 5)


def test_a_shift_moves_nothing_between_devices():
    mesh = Mesh(np.array(jax.devices()), ("data",))
    by_device = NamedSharding(mesh, PartitionSpec("data"))
    keys, images = jax.random.split(jax.random.key(1), 16), jnp.zeros((16, 6, 6, 3), jnp.uint8)
    program = jax.jit(random_shift, in_shardings=by_device).lower(keys, images).compile().as_text()
    assert not [line for line in program.splitlines() if "all-gather" in line or "all-to-all" in line]


@pytest.mark.parametrize(("keys", "shape"), [((3,), (2, 5, 5, 1)), ((2,), (5, 5, 1)), ((), (5, 5))])
def test_keys_and_images_that_do_not_match_are_refused(keys, shape):
    key = jax.random.split(jax.random.key(0), keys) if keys else jax.random.key(0)
    with pytest.raises(ValueError, match=r"^Found images .* and keys .*; expected"):
        random_shift(key, jnp.zeros(shape))
