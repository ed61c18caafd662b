"""Segments of a ring: whole, of one episode, and the same on any number of devices."""

import dataclasses

import jax
import numpy as np
import pytest

from podrl.replay.segments import make_segment_reader
from podrl.replay.sharded import make_sequence_replay
from tests.replay.rings import KINDS, Rollouts, joined_order, learner_mesh, permute, rollout_shape

LENGTH, LEAST = 5, 50


def fill(kind, devices, unrolls, unfit=()):
    """A ring of random rollouts on some devices, and what its reader gives; those that are `unfit` have NaN."""
    shape, mesh = KINDS[kind], learner_mesh(devices)
    rollout = rollout_shape(shape)
    replay = make_sequence_replay(mesh, shape, rollout)
    reader = make_segment_reader(mesh, shape, rollout, lambda carry: carry, length=LENGTH, least=LEAST)
    ring, rollouts = jax.jit(replay.init, out_shardings=replay.sharding)(), Rollouts(shape)
    insert = jax.jit(replay.insert, out_shardings=replay.sharding)
    made = [rollouts.make() for _ in range(unrolls)]
    made = [dataclasses.replace(x, reward=x.reward * np.nan) if at in unfit else x for at, x in enumerate(made)]
    for at, each in enumerate(made):
        ring = insert(ring, permute(each, joined_order(devices)), at not in unfit)
    return reader, jax.device_get(jax.jit(reader.read)(ring, jax.random.key(5))), made


@pytest.mark.parametrize("kind", ["uniform", "recurrent"])
def test_they_are_of_one_episode_and_as_the_environment_gave_them(kind):
    reader, (segments, found), made = fill(kind, 1, 4)
    assert reader.num == 64  # 50, rounded up to equal shares of 16 groups.
    assert 0.2 < found.mean() < 0.9
    assert not segments.first[1:, found].any()
    assert segments.first[1:, ~found].any(axis=0).all()
    rewards = np.concatenate([each.reward for each in made]).T
    windows = np.lib.stride_tricks.sliding_window_view(rewards, LENGTH, axis=1).reshape(-1, LENGTH)
    for segment in segments.reward[:, found].T:
        assert (windows == segment).all(axis=1).any()


def test_none_is_found_where_no_environment_has_made_as_many_steps():
    assert not fill("uniform", 1, 1)[1][1].any()


def test_they_are_the_same_on_eight_devices():
    (_, one, _), (_, eight, _) = (fill("uniform", devices, 4) for devices in (1, 8))
    jax.tree.map(np.testing.assert_array_equal, one, eight)


def test_another_key_draws_others():
    reader, (segments, _), _ = fill("uniform", 1, 4)
    assert len(np.unique(segments.reward[0])) > reader.num / 2


def test_rollouts_that_are_not_fit_are_in_none():
    _, (segments, found), _ = fill("uniform", 1, 4, unfit=(1,))
    assert found.any()
    assert np.isfinite(segments.reward[:, found]).all()
