"""What an update asks of a replay: pure functions of its ring, a pytree in `podrl.types.LearnerState.replay`.

A leaf of a ring has its environments first, [B, ...], or its groups of environments, and is split over the mesh axis
`data`; so inserting and gathering move nothing between devices. Scalars, and everything under the name `counts`, are
whole on every device.
"""

from collections.abc import Callable
import dataclasses

from flax import struct
import jax
import numpy as np

from podrl.types import PyTree, Sample, Trajectory

_NO_DRAW = np.uint32(2**32 - 2)  # Folded into the learner's key for the ring's: no user of that key splits it so often.


def ring_key(key: jax.Array) -> jax.Array:
    """Returns the key of a ring's draws, which is none that an agent splits off its own, the learner's `key`."""
    return jax.random.fold_in(key, _NO_DRAW)


@struct.dataclass(kw_only=True)
class Draws:
    """What one update learns from: K draws, all made right after its insertion.

    Attributes:
        place: pytree of [K, ...]; where in the ring.
        used: [K] bool; false for draws that the update leaves out, all of them behind the others.
        age: [K]; updates since that experience was inserted, a mean over the sequences of a draw.
    """

    place: PyTree
    used: jax.Array
    age: jax.Array


def _keep_ring(ring: PyTree, draws: Draws, priority: PyTree) -> PyTree:
    return ring


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replay:
    """A replay as pure functions.

    Attributes:
        init: (key) -> an empty ring; `key` decides all draws of the run.
        insert: (ring, rollouts [T, B], fit [] bool) -> ring. Rollouts that are not fit to learn from are never drawn.
            Writes in place where the ring is donated.
        draw: (ring) -> (ring, draws), with the ring's counts after them: all that the update learns from.
        gather: (ring, place of one draw) -> Sample.
        write: (ring, draws, priority) -> ring, once after an update's last learner step. The priority is what
            `Agent.learn` returned for each draw, [K, N]; one that is not finite leaves the old one.
        size: (ring) -> [] int32, updates whose experience is in the ring.
        share: Transitions that a draw is learned from, per transition inserted.
    """

    init: Callable[[jax.Array], PyTree]
    insert: Callable[[PyTree, Trajectory, jax.Array], PyTree]
    draw: Callable[[PyTree], tuple[PyTree, Draws]]
    gather: Callable[[PyTree, PyTree], Sample]
    write: Callable[[PyTree, Draws, PyTree], PyTree] = _keep_ring
    size: Callable[[PyTree], jax.Array]
    share: float = 1.0
