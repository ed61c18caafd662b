"""The functions of a ring over the learner's mesh.

Each device inserts, draws, gathers and writes for its own environments, and nothing moves between devices. What an
agent learns stays in the global view: a batch is [L, N], its N sequences split over the mesh axis `data`.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
from jax import numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from podrl.replay.priorities import write_priorities
from podrl.replay.ring import SequenceRing, Sequences, empty_ring, gather_sequences, insert_rollout
from podrl.replay.sampling import Drawn, draw_starts
from podrl.replay.shape import RingShape
from podrl.types import Trajectory


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceReplay:
    """Pure functions of a ring on one mesh, to be called inside a jitted update that is given the ring to keep.

    An update inserts, draws all its batches at once, and writes their priorities once, after its last learner step:
    then the same state gives the same sequences on any number of devices.

    A numpy view of a ring's array (`np.asarray` of it on the CPU) makes the next update copy the ring, in silence; the
    result is the same. `jax.device_get` of a copy, `jnp.copy(x)`, does not.

    Attributes:
        shape: The ring's numbers.
        init: () -> SequenceRing without a row, and without a key.
        insert: (ring, rollout, fit=True) -> ring. The rollout is [T, B], raw, its `carry` without a frame stack. No
            sequence with a row of one that is not `fit` [] bool is drawn.
        draw: (ring, key, num_batches) -> Drawn of [num_batches, N].
        gather: (ring, drawn) -> Sequences [L, N], of `drawn` of one batch, [N].
        write: (ring, drawn, priority) -> ring. Both are of all batches, [K, N]. Without an exponent it writes nothing.
        sharding: The shardings of a ring.
    """

    shape: RingShape
    init: Callable[[], SequenceRing]
    insert: Callable[..., SequenceRing]
    draw: Callable[[SequenceRing, jax.Array, int], Drawn]
    gather: Callable[[SequenceRing, Drawn], Sequences]
    write: Callable[[SequenceRing, Drawn, jax.Array], SequenceRing]
    sharding: SequenceRing


def make_sequence_replay(mesh: Mesh, shape: RingShape, rollout: Trajectory) -> SequenceReplay:
    """Maps a ring's functions over a mesh.

    Args:
        mesh: The learner's devices, with axes `('data', 'model')`.
        shape: The ring's numbers; its groups must fit the devices, see `podrl.replay.groups.check_groups`.
        rollout: `jax.ShapeDtypeStruct`s of the job's rollout [T, B], with what the ring is to keep: fields that are
            `()` here must be `()` in every rollout that is inserted.
    """
    split: Any = PartitionSpec("data")  # Also stands for a tree of which it is the spec of every array.
    timed: Any = PartitionSpec(None, "data")
    whole: Any = PartitionSpec()
    ring_specs = jax.tree.map(lambda _: split, jax.eval_shape(functools.partial(empty_ring, shape, rollout)))
    ring_specs = dataclasses.replace(ring_specs, inserted=whole, fit_unrolls=whole)
    rollout_specs = rollout.map(lambda _: timed, lambda _: split)
    local = functools.partial(jax.shard_map, mesh=mesh)

    def insert(ring: SequenceRing, rollout: Trajectory, fit: jax.Array | bool = True) -> SequenceRing:
        block = functools.partial(insert_rollout, shape)
        mapped = local(block, in_specs=(ring_specs, rollout_specs, whole), out_specs=ring_specs)
        return mapped(ring, rollout, jnp.asarray(fit))

    def draw(ring: SequenceRing, key: jax.Array, num_batches: int) -> Drawn:
        block = functools.partial(draw_starts, shape, num_batches)
        specs = (ring_specs.priority, split, whole, whole, whole)
        mapped = local(block, in_specs=specs, out_specs=timed)
        return mapped(ring.priority, ring.env_index, ring.inserted, key, ring.fit_unrolls)

    def gather(ring: SequenceRing, drawn: Drawn) -> Sequences:
        block = functools.partial(gather_sequences, shape, rollout)
        specs = (ring_specs, split, split, split)
        out_specs = Sequences(trajectory=rollout_specs, before=timed)
        return local(block, in_specs=specs, out_specs=out_specs)(ring, drawn.env, drawn.slot, drawn.number)

    def write(ring: SequenceRing, drawn: Drawn, priority: jax.Array) -> SequenceRing:
        if shape.priority_exponent is None:
            return ring
        block = functools.partial(write_priorities, shape)
        mapped = local(block, in_specs=(split, split, timed, timed), out_specs=(split, split))
        written, peak = mapped(ring.priority, ring.peak, drawn, priority)
        return dataclasses.replace(ring, priority=written, peak=peak)

    return SequenceReplay(
        shape=shape,
        init=functools.partial(empty_ring, shape, rollout),
        insert=insert,
        draw=draw,
        gather=gather,
        write=write,
        sharding=jax.tree.map(functools.partial(NamedSharding, mesh), ring_specs, is_leaf=_is_spec),
    )


def _is_spec(node: object) -> bool:
    return isinstance(node, PartitionSpec)
