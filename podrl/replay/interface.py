"""What an update asks of a replay: pure functions of its ring, a pytree in `podrl.types.LearnerState.replay`.

A leaf of a ring has its environments first, [B, ...], and is split over the mesh axis `data`; so inserting and
gathering move nothing between devices. Scalars, and everything under the name `counts`, are whole on every device.
"""

from collections.abc import Callable
import dataclasses

from flax import struct
import jax

from podrl.types import PyTree, Trajectory


@struct.dataclass(kw_only=True)
class Draws:
    """What one update learns from: K draws, all made right after its insertion.

    Attributes:
        place: pytree of [K, ...]; where in the ring.
        used: [K] bool; false for draws that the update leaves out, all of them behind the others.
        age: [K] int32; updates since that experience was inserted.
    """

    place: PyTree
    used: jax.Array
    age: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replay:
    """A replay as pure functions.

    Attributes:
        init: (key) -> an empty ring; `key` decides all draws of the run.
        insert: (ring, rollouts [T, B], fit [] bool) -> ring. Rollouts that are not fit to learn from are never drawn.
            Writes in place where the ring is donated.
        draw: (ring) -> (ring, draws), with the ring's counts after them.
        gather: (ring, place of one draw) -> trajectory [T, B].
        size: (ring) -> [] int32, updates whose experience is in the ring.
    """

    init: Callable[[jax.Array], PyTree]
    insert: Callable[[PyTree, Trajectory, jax.Array], PyTree]
    draw: Callable[[PyTree], tuple[PyTree, Draws]]
    gather: Callable[[PyTree, PyTree], Trajectory]
    size: Callable[[PyTree], jax.Array]
