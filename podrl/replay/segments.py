"""Segments of a replay of the newest steps, for readers other than an update: they are drawn, and nothing is written.

The segments are the same on any number of devices: each group draws with a key of its own, and they come in the order
of their numbers, whole on every device.
"""

from collections.abc import Callable
import dataclasses

import jax
from jax import numpy as jnp
from jax.sharding import Mesh

from podrl.mesh import replicated
from podrl.replay.ring import SequenceRing
from podrl.replay.shape import RingShape
from podrl.replay.sharded import make_sequence_replay
from podrl.types import PyTree, Trajectory


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentReader:
    """Reads segments of a ring.

    Attributes:
        num: N, segments that are drawn: those asked for, rounded up to equal shares of the groups.
        read: (ring, key) -> the segments [L, N], and which of them were found within one episode, [N] bool. To be
            called inside a compiled program that does not consume the ring.
    """

    num: int
    read: Callable[[SequenceRing, jax.Array], tuple[Trajectory, jax.Array]]


def make_segment_reader(
    mesh: Mesh, shape: RingShape, rollout: Trajectory, keep: Callable[[PyTree], PyTree], *, length: int, least: int
) -> SegmentReader:
    """Makes the reader of a ring.

    Args:
        mesh: The learner's devices.
        shape: The ring's numbers.
        rollout: `jax.ShapeDtypeStruct`s of the job's rollout, [T, B].
        keep: `Agent.keep`: what of its `carry` the ring keeps.
        length: L, steps of a segment.
        least: Segments to draw, at least.

    Raises:
        ConfigError: If the ring is too small for a segment.
    """
    num = -(-least // shape.groups) * shape.groups
    own = dataclasses.replace(shape, length=length, stride=1, batch=num, priority_exponent=None)
    kept = dataclasses.replace(rollout, carry=jax.eval_shape(keep, rollout.carry))
    functions = make_sequence_replay(mesh, own, kept)

    def read(ring: SequenceRing, key: jax.Array) -> tuple[Trajectory, jax.Array]:
        bare = dataclasses.replace(ring, priority=(), peak=(), key=())
        drawn = jax.tree.map(lambda x: x[0], functions.draw(bare, key, 1))
        trajectory = functions.gather(bare, drawn).trajectory
        trajectory, drawn = jax.lax.with_sharding_constraint((trajectory, drawn), replicated(mesh))
        order = jnp.argsort(drawn.number)
        trajectory = trajectory.map(lambda x: x[:, order], lambda x: x[order])
        within = jnp.all(trajectory.is_transition, axis=0)
        return trajectory, within & (drawn.probability[order] > 0)

    return SegmentReader(num=num, read=read)
