"""A ring that was saved on some devices is the same on others, which have their environments in another order."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from podrl.replay.sharded import make_sequence_replay
from podrl.runs import replay_pieces
from podrl.runs.replay_pieces import create_pieces, read_pieces, write_pieces
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
    create_pieces(tmp_path, ring, RECURRENT.groups)
    write_pieces(tmp_path, ring, RECURRENT.groups)
    for mesh in [(1, 1), (2, 1), (8, 1)]:
        order, shapes = joined_order(mesh[0]), shapes_on(kind, *mesh)
        found = read_pieces(tmp_path, shapes, order.astype(np.uint32), RECURRENT.groups)
        assert jax.tree.map(lambda x: x.sharding, found) == jax.tree.map(lambda x: x.sharding, shapes)
        places, groups = np.argsort(np.array(ring.env_index))[order], RECURRENT.groups
        by_group = places[:: B // groups] // (B // groups)

        def expected(x, places=places, by_group=by_group):
            return x[{B: places, groups: by_group}[x.shape[0]]] if x.ndim else x  # noqa: B023

        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(ring), strict=True):
            np.testing.assert_array_equal(one, expected(np.array(other)))


@pytest.mark.parametrize("groups", [1, RECURRENT.groups])
def test_saving_leaves_the_ring_to_be_donated_and_refuses_another_shape(groups, tmp_path):
    ring = filled("recurrent", 1)
    copy = jax.tree.map(lambda x: x.copy(), ring)
    pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(copy)]
    create_pieces(tmp_path, copy, groups)
    write_pieces(tmp_path, copy, groups)
    kept = jax.jit(lambda x: jax.tree.map(lambda leaf: leaf + (leaf == leaf.max()), x), donate_argnums=0)(copy)
    assert [x.unsafe_buffer_pointer() for x in jax.tree.leaves(kept)] == pointers

    with pytest.raises(ValueError, match="ALREADY_EXISTS"):
        create_pieces(tmp_path, ring, groups)
    shapes = shapes_on("recurrent", 1)
    other = dataclasses.replace(
        shapes, priority=jax.ShapeDtypeStruct((B, 3), np.float32, sharding=shapes.peak.sharding)
    )
    with pytest.raises(ValueError, match=r"priority is float32\(32, 4\); expected float32\(32, 3\)\."):
        read_pieces(tmp_path, other, np.arange(B, dtype=np.uint32), groups)
