"""A ring of the newest steps as a `Replay`: what is drawn of it, when that begins, and how old it is."""

from collections.abc import Callable
import dataclasses

from flax import struct
import jax
from jax import numpy as jnp
from jax.sharding import Mesh

from podrl.replay.interface import Draws, Replay, ring_key
from podrl.replay.ring import SequenceRing
from podrl.replay.sampling import Drawn, importance_weights
from podrl.replay.shape import RingShape
from podrl.replay.sharded import make_sequence_replay
from podrl.types import PyTree, Sample, Trajectory


@struct.dataclass(kw_only=True)
class WeightedDraw:
    """Sequences that were drawn, and what they count in a loss.

    Attributes:
        drawn: Which.
        weight: [K, N] float32, or [N] of one batch; see `podrl.replay.sampling.importance_weights`.
    """

    drawn: Drawn
    weight: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawRule:
    """How much of a ring is drawn, and when.

    Attributes:
        batches: K, batches of an update.
        min_steps: Env steps of the whole job in the ring before anything is drawn, at most those that it holds.
        importance_exponent: How much weights correct for drawing by priority, from 0 to 1.
        share: See `podrl.replay.interface.Replay.share`.
    """

    batches: int
    min_steps: int
    importance_exponent: float
    share: float


def replay_sequences(
    mesh: Mesh, shape: RingShape, rule: DrawRule, rollout: Trajectory, keep: Callable[[PyTree], PyTree]
) -> Replay:
    """A replay of sequences of the newest steps.

    Args:
        mesh: The learner's devices, with axes `('data', 'model')`.
        shape: The ring's numbers.
        rule: What is drawn of it.
        rollout: `jax.ShapeDtypeStruct`s of the job's rollout, [T, B].
        keep: `Agent.keep`: what of its `carry` the ring keeps.
    """
    kept = dataclasses.replace(rollout, carry=jax.eval_shape(keep, rollout.carry))
    functions = make_sequence_replay(mesh, shape, kept)
    least = shape.unrolls_until_drawn(rule.min_steps)

    def init(key: jax.Array) -> SequenceRing:
        return dataclasses.replace(functions.init(), key=ring_key(key))

    def insert(ring: SequenceRing, rollouts: Trajectory, fit: jax.Array) -> SequenceRing:
        kept = dataclasses.replace(rollouts, carry=keep(rollouts.carry))
        return dataclasses.replace(functions.insert(_keyless(ring), kept, fit), key=ring.key)

    def draw(ring: SequenceRing) -> tuple[SequenceRing, Draws]:
        key, own = jax.random.split(ring.key)
        drawn = functions.draw(ring, own, rule.batches)
        draws = Draws(
            place=WeightedDraw(drawn=drawn, weight=importance_weights(drawn.probability, rule.importance_exponent)),
            # The weights' minimum: nothing else crosses between devices to know that there was something to draw.
            used=(jnp.min(drawn.probability, axis=-1) > 0) & (ring.inserted >= least),
            age=jnp.mean(ages(shape, ring.inserted, drawn.slot).astype(jnp.float32), axis=-1),
        )
        return dataclasses.replace(ring, key=key), draws

    def gather(ring: SequenceRing, place: WeightedDraw) -> Sample:
        sequences = functions.gather(_keyless(ring), place.drawn)
        return Sample(trajectory=sequences.trajectory, weight=place.weight, before=sequences.before)

    def write(ring: SequenceRing, draws: Draws, priority: jax.Array) -> SequenceRing:
        learned = jnp.where(draws.used[:, None], priority, jnp.nan)
        return dataclasses.replace(functions.write(_keyless(ring), draws.place.drawn, learned), key=ring.key)

    return Replay(
        init=init,
        insert=insert,
        draw=draw,
        gather=gather,
        write=write,
        size=lambda ring: jnp.minimum(ring.inserted, shape.unrolls),
        share=rule.share,
    )


def ages(shape: RingShape, inserted: jax.Array, slot: jax.Array) -> jax.Array:
    """Returns the updates since the last transition of sequences was inserted.

    Args:
        shape: The ring's numbers.
        inserted: [] int32; `SequenceRing.inserted`.
        slot: [...] int32; live starts, `Drawn.slot`.

    Returns:
        [...] int32; 0 for what the newest rollout completed.
    """
    newest = inserted * (shape.unroll_length // shape.stride) - 1
    rows = ((newest - slot) % shape.starts + 1) * shape.stride
    return (rows - shape.length) // shape.unroll_length


def _keyless(ring: SequenceRing) -> SequenceRing:
    return dataclasses.replace(ring, key=())
