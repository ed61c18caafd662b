"""A ring that was saved on some devices is the same on others, which have their environments in another order."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from podrl.ops.fingerprint import hash_on_host
from podrl.replay.sharded import make_sequence_replay
from podrl.runs import replay_pieces
from podrl.runs.replay_pieces import hash_ring, hash_stored, read_pieces, read_stored, write_pieces
from podrl.runs.state_arrays import by_path
from tests.replay.rings import KINDS, RECURRENT, B, Rollouts, joined_order, learner_mesh, permute, rollout_shape, update


@functools.cache
def replay_on(kind, data, model=1):
    return make_sequence_replay(learner_mesh(data, model), KINDS[kind], rollout_shape(KINDS[kind]))


@functools.cache
def filled(kind, data, model=1):
    """A ring after some updates, and its environments' order."""
    replay, rollouts, order = replay_on(kind, data, model), Rollouts(KINDS[kind]), joined_order(data)
    jitted = jax.jit(functools.partial(update, replay), donate_argnums=0)
    ring = jax.jit(replay.init, out_shardings=replay.sharding)()
    for number in range(7):
        ring = jitted(ring, permute(rollouts.make(), order), jax.random.key(number))[0]
    return ring


def shapes_on(kind, data, model=1):
    replay = replay_on(kind, data, model)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), jax.eval_shape(replay.init), replay.sharding
    )


@pytest.mark.parametrize(
    ("kind", "wrote", "piece_bytes"),
    [("recurrent", (1, 1), 1 << 20), ("recurrent", (4, 2), 1), ("uniform", (8, 1), 1 << 20)],
)
def test_a_ring_is_read_onto_any_number_of_devices(kind, wrote, piece_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(replay_pieces, "_PIECE_BYTES", piece_bytes)
    ring = filled(kind, *wrote)
    write_pieces(tmp_path, ring, joined_order(wrote[0]))
    hashes = hash_ring(ring, joined_order(wrote[0]))
    for mesh in [(1, 1), (2, 1), (8, 1)]:
        order, shapes = joined_order(mesh[0]), shapes_on(kind, *mesh)
        found = read_pieces(tmp_path, shapes, order.astype(np.uint32))
        assert hash_ring(found, order) == hashes
        assert jax.tree.map(lambda x: x.sharding, found) == jax.tree.map(lambda x: x.sharding, shapes)
        places, groups = np.argsort(np.array(ring.env_index))[order], RECURRENT.groups
        by_group = places[:: B // groups] // (B // groups)

        def expected(x, places=places, by_group=by_group):
            return x[{B: places, groups: by_group}[x.shape[0]]] if x.ndim else x  # noqa: B023

        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(ring), strict=True):
            np.testing.assert_array_equal(one, expected(np.array(other)))


def test_hashes_are_those_of_the_stored_arrays_and_every_place_counts(tmp_path):
    ring, order = filled("recurrent", 2), joined_order(2)
    write_pieces(tmp_path, ring, order)
    hashes = hash_ring(ring, order)
    assert hashes == {path: hash_stored(tmp_path, path) for path in by_path(ring)}
    assert hashes == {path: hash_on_host(read_stored(tmp_path, path)) for path in by_path(ring)}
    other = np.roll(order, 1)  # Each environment under another's number.
    wrong = {path for path, found in hash_ring(ring, other).items() if found == hashes[path]}
    assert wrong == {"inserted", "fit_unrolls"}


@pytest.mark.parametrize("devices", [1, 2])
def test_saving_leaves_the_ring_to_be_donated(devices, tmp_path):
    copy = jax.tree.map(lambda x: x.copy(), filled("recurrent", devices))
    pointers = [shard.data.unsafe_buffer_pointer() for x in jax.tree.leaves(copy) for shard in x.addressable_shards]
    hash_ring(copy, joined_order(devices))
    write_pieces(tmp_path, copy, joined_order(devices))
    kept = jax.jit(lambda x: jax.tree.map(lambda leaf: leaf + (leaf == leaf.max()), x), donate_argnums=0)(copy)
    after = [shard.data.unsafe_buffer_pointer() for x in jax.tree.leaves(kept) for shard in x.addressable_shards]
    assert after == pointers


def test_another_shape_is_refused(tmp_path):
    write_pieces(tmp_path, filled("recurrent", 1), joined_order(1))
    shapes = shapes_on("recurrent", 1)
    other = dataclasses.replace(
        shapes, priority=jax.ShapeDtypeStruct((B, 3), np.float32, sharding=shapes.peak.sharding)
    )
    with pytest.raises(ValueError, match=r"priority is float32\(32, 4\); expected float32\(32, 3\)\."):
        read_pieces(tmp_path, other, np.arange(B, dtype=np.uint32))
