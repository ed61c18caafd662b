"""How fast a ring is beside Flashbax's prioritised trajectory buffer: `python -m tests.replay.speed`.

Both insert an unroll, draw a batch, gather it and write its priorities, each in one jitted program that is donated its
buffer, in turns. Read the ratios; the times are of this machine. The stages of the ring are timed alone, too.
"""

import collections
from collections.abc import Callable
import dataclasses
import functools
import statistics
import sys
import time
from typing import Any

import flashbax
import jax
from jax import numpy as jnp
import numpy as np

from podrl.replay.shape import RingShape
from podrl.replay.sharded import SequenceReplay, make_sequence_replay
from podrl.types import Trajectory
from tests.replay.rings import learner_mesh, random_like, rollout_shape

_SECONDS, _MOST = 3.0, 200  # For each case.
_LONG = RingShape(
    num_envs=32, unroll_length=20, unrolls=50, length=80, stride=20, before=3, batch=32, priority_exponent=0.9
)
_SHORT = dataclasses.replace(_LONG, num_envs=64, unrolls=1250, length=20, before=1, batch=256)
_SINGLE = dataclasses.replace(_SHORT, unrolls=500, length=1, stride=1)
CASES: dict[str, tuple[RingShape, tuple[int, ...]]] = {
    "frames [84, 84], B32 T20 N32 L80": (_LONG, (84, 84)),
    "frames [84, 84, 1], the same": (_LONG, (84, 84, 1)),
    "vectors [17], 80,000 starts, N256 L20": (_SHORT, (17,)),
    "vectors [17], 640,000 transitions, N256": (_SINGLE, (17,)),
    "the same in 16 groups, K=16": (dataclasses.replace(_SINGLE, groups=16), (17,)),
}


def plain_rollout(shape: RingShape, image: tuple[int, ...]) -> Trajectory:
    """Shapes with one observation and the scalars that Flashbax's buffer gets, too."""
    rollout = rollout_shape(shape, image)
    return dataclasses.replace(
        rollout, observation=rollout.observation["image"], carry=(), behaviour=(), params_version=()
    )


def ring_stages(replay: SequenceReplay, batches: int) -> dict[str, Callable]:
    """The functions of the ring, each jitted, and all of them in one program."""

    def together(ring, rollout, key):
        ring = replay.insert(ring, rollout)
        drawn = replay.draw(ring, key, batches)

        def step(_, one):
            sequences = replay.gather(ring, one)
            return sequences, jnp.max(jnp.abs(sequences.trajectory.reward), axis=0)

        if batches == 1:  # What a loop carries, it may copy.
            sequences, new = step((), first(drawn))
            return replay.write(ring, drawn, new[None]), sequences
        last = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(step, (), first(drawn))[0])
        sequences, new = jax.lax.scan(step, last, drawn)
        return replay.write(ring, drawn, new), sequences

    return {
        "insert": jax.jit(replay.insert, donate_argnums=0),
        "draw": jax.jit(functools.partial(replay.draw, num_batches=batches)),
        "gather": jax.jit(replay.gather),
        "write": jax.jit(replay.write, donate_argnums=0),
        "together": jax.jit(together, donate_argnums=0),
    }


def first(drawn):
    return jax.tree.map(lambda x: x[0], drawn)


def flashbax_update(shape: RingShape, rollout: Trajectory) -> tuple[Any, Callable]:
    """Its state, full of zeros, and its update of one batch."""
    buffer = flashbax.make_prioritised_trajectory_buffer(
        add_batch_size=shape.num_envs,
        sample_batch_size=shape.batch,
        sample_sequence_length=max(shape.length, 2),
        period=shape.stride,
        min_length_time_axis=max(shape.length, 2),
        max_length_time_axis=shape.rows,
        priority_exponent=shape.priority_exponent,
    )

    def rows_of(rollout):
        names = ("action", "reward", "discount")
        rows = {name: getattr(rollout, name) for name in names} | {"first": rollout.first[:-1]}
        return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), rows | {"observation": rollout.observation[:-1]})

    def together(state, rollout, key):
        state = buffer.add(state, rows_of(rollout))
        sample = buffer.sample(state, key)
        new = jnp.max(jnp.abs(sample.experience["reward"]), axis=1)
        return buffer.set_priorities(state, sample.indices, new), sample.experience

    row = jax.tree.map(lambda x: jnp.zeros(x.shape[2:], x.dtype), jax.eval_shape(rows_of, rollout))
    return jax.jit(buffer.init)(row), jax.jit(together, donate_argnums=0)


def measure(name: str) -> dict[str, float]:
    """Median milliseconds of every stage, of all together, and of Flashbax; all take the same rollout each time."""
    shape, image = CASES[name]
    batches = 16 if "K=16" in name else 1
    shapes = plain_rollout(shape, image)
    replay = make_sequence_replay(learner_mesh(1), shape, shapes)
    stages, (state, update) = ring_stages(replay, batches), flashbax_update(shape, shapes)
    rollout = jax.device_put(random_like(shapes, np.random.default_rng(0)))
    rollout = dataclasses.replace(rollout, env_index=jnp.arange(shape.num_envs, dtype=jnp.uint32))
    ring, times = jax.jit(replay.init)(), collections.defaultdict(list)

    def timed(name: str, function: Callable, *arguments: Any) -> Any:
        start_s = time.perf_counter()
        result = jax.block_until_ready(function(*arguments))
        times[name].append(1e3 * (time.perf_counter() - start_s))
        return result

    end_s, warm = 0.0, shape.unrolls_until_live() + 2
    for turn in range(_MOST + warm):
        key = jax.random.key(turn)
        ring = timed("insert", stages["insert"], ring, rollout)
        drawn = timed("draw", stages["draw"], ring, key)
        sequences = timed("gather", stages["gather"], ring, first(drawn))
        new = jnp.broadcast_to(jnp.max(jnp.abs(sequences.trajectory.reward), axis=0), drawn.env.shape)
        ring = timed("write", stages["write"], ring, drawn, jax.block_until_ready(new))
        ring, _ = timed("together", stages["together"], ring, rollout, key)
        state, _ = timed("flashbax", update, state, rollout, key)
        if turn == warm:
            times.clear()
            end_s = time.perf_counter() + _SECONDS
        if turn > warm and time.perf_counter() > end_s:
            break
    return {name: statistics.median(each) for name, each in times.items()}


def main() -> None:
    sys.stdout.write(f"jax {jax.__version__}, medians in ms; flashbax does the work of `together` with K=1\n")
    for name in CASES:
        found = measure(name)
        stages = "  ".join(f"{stage} {ms:.2f}" for stage, ms in found.items())
        ratio = found["together"] / found["flashbax"]
        sys.stdout.write(f"{name}: {stages}  ratio to flashbax {ratio:.2f}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
