"""Numbers of groups, unrolls and bytes, and what is said where they do not fit."""

import functools
import math

import jax
import numpy as np
import pytest

from podrl.config.config import ConfigError
from podrl.replay.groups import check_groups, check_sequence, choose_groups, fitting_groups, ring_bytes, ring_unrolls
from podrl.replay.ring import empty_ring
from podrl.replay.shape import RingShape
from podrl.replay.tiles import from_tiles, tile_shape, to_tiles
from tests.replay.rings import RECURRENT, rollout_shape


def test_the_default_number_of_groups_knows_no_devices():
    assert choose_groups(num_envs=64, batch=64) == 16
    assert choose_groups(num_envs=64, batch=24) == 8
    assert choose_groups(num_envs=6, batch=64) == 2
    assert choose_groups(num_envs=5, batch=64) == 1
    assert choose_groups(num_envs=32, batch=64, fewest=4) == 8
    assert choose_groups(num_envs=8, batch=64, fewest=4) == 2
    assert choose_groups(num_envs=3, batch=64, fewest=4) == 1  # The agent says that these are too few.


def test_groups_that_fit_divide_what_every_device_has_of_every_pool():
    for num_envs, batch, pools, learners in [(64, 64, 2, 1), (64, 32, 2, 4), (48, 24, 2, 2), (60, 30, 1, 3)]:
        fitting = fitting_groups(num_envs=num_envs, batch=batch, pools=pools, learners=learners)
        share = num_envs // (pools * learners)
        expected = [
            groups
            for groups in range(1, num_envs + 1)
            if num_envs % groups == 0 and batch % groups == 0 and share % (num_envs // groups) == 0
        ]
        assert fitting == expected


def test_the_message_names_numbers_that_fit():
    check_groups(16, num_envs=64, batch=64, pools=2, learners=4)
    with pytest.raises(
        ConfigError, match=r"^replay.groups=4 does not fit: it must be a multiple of 8 .* 8, 16, 32 or 64\.$"
    ):
        check_groups(4, num_envs=64, batch=64, pools=2, learners=4)
    with pytest.raises(ConfigError, match=r"None does: make replay.batch a multiple of 8\.$"):
        check_groups(4, num_envs=64, batch=12, pools=2, learners=4)
    with pytest.raises(ConfigError, match=r"make actors.num_envs a .* of 8 and make replay.batch a .* of 8\."):
        check_groups(2, num_envs=12, batch=12, pools=2, learners=4)
    check_sequence(burn_in=40, length=80, unroll_length=20)
    with pytest.raises(ConfigError, match=r"Use agent.length=60 or 80, or"):
        check_sequence(burn_in=40, length=70, unroll_length=20)


def test_a_capacity_is_held_by_whole_unrolls_and_too_small_a_ring_names_the_capacity_that_fits():
    assert ring_unrolls(1_000_000, num_envs=64, unroll_length=20) == 782
    numbers = {"num_envs": 64, "unroll_length": 20, "length": 120, "stride": 20, "before": 3, "batch": 64}
    with pytest.raises(ConfigError, match=r"replay.capacity to at least 8960\.") as error:
        RingShape(unrolls=3, **numbers)
    least = int(str(error.value).split()[-1].rstrip("."))
    unrolls = ring_unrolls(least, num_envs=64, unroll_length=20)
    assert RingShape(unrolls=unrolls, **numbers).most_live == 1
    with pytest.raises(ConfigError, match="need 7 or more"):
        RingShape(unrolls=unrolls - 1, **numbers)
    with pytest.raises(ConfigError, match=r"every 3 rows, which does not divide actors.unroll_length=20"):
        RingShape(unrolls=9, **{**numbers, "stride": 3})
    with pytest.raises(ConfigError, match=r"replay.batch=65 does not divide into replay.groups=16"):
        RingShape(unrolls=9, **{**numbers, "batch": 65}, groups=16)


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize(("length", "before"), [(1, 1), (3, 1), (8, 3), (4, 5), (2, 9)])
def test_live_starts_are_those_whose_rows_are_all_in_the_ring(stride, length, before):
    shape = RingShape(num_envs=1, unroll_length=4, unrolls=7, length=length, stride=stride, before=before, batch=1)
    for inserted in range(20):
        rows = 4 * inserted
        oldest_row = max(0, rows - shape.rows + 1)
        live = [a for a in range(0, rows, stride) if a - before >= oldest_row and a + length <= rows]
        counted = inserted if inserted < 14 else 7 + inserted % 7  # As the ring counts.
        oldest, newest = (int(x) * stride + rows - 4 * counted for x in shape.live(counted))
        assert list(range(oldest, newest + 1, stride)) == live
        assert int(shape.num_live(np.int32(counted))) == len(live)
        assert bool(live) == (inserted >= shape.unrolls_until_live())
    assert len(live) == shape.most_live


def test_bytes_are_known_before_anything_is_compiled():
    """A million Atari steps take 7 GB over all devices."""
    shape = RingShape(
        num_envs=64,
        unroll_length=20,
        unrolls=782,
        length=120,
        stride=20,
        before=3,
        groups=16,
        batch=64,
        priority_exponent=0.9,
    )
    ring = jax.eval_shape(functools.partial(empty_ring, shape, rollout_shape(shape, (84, 84, 1))))
    assert 7.1e9 < ring_bytes(ring, 1) < 7.3e9
    assert ring_bytes(ring, 8) == pytest.approx(ring_bytes(ring, 1) / 8, abs=8)
    small = jax.jit(functools.partial(empty_ring, RECURRENT, rollout_shape(RECURRENT)))()
    assert ring_bytes(small, 1) == sum(leaf.nbytes for leaf in jax.tree.leaves(small))


@pytest.mark.parametrize(
    ("shape", "tiles"),
    [
        ((84, 84, 1), (56, 128)),
        ((84, 84), (56, 128)),
        ((64, 64, 3), (96, 128)),
        ((10, 10, 4), (400,)),
        ((2000,), (16, 128)),
        ((17,), (17,)),
        ((), ()),
        ((3, 1), (3,)),
    ],
)
def test_tiles_are_whole_and_give_back_what_they_were_made_of(shape, tiles):
    assert tile_shape(shape) == tiles
    rows = np.random.default_rng(0).integers(0, 256, (2, 3, *shape)).astype(np.uint8)
    tiled = to_tiles(rows, 2)
    assert tiled.shape == (2, 3, *tiles)
    assert tiled.size >= rows.size
    np.testing.assert_array_equal(from_tiles(tiled, shape), rows)
    assert math.prod(tiles) % 1024 == 0 or len(tiles) < 2
