"""How fast a run's replay is by itself: what an update inserts and what it samples, beside a copy of as many bytes.

These are parts of learning, or of the compiled program. They have a ring of their own, filled as far as the run's is
when it begins to learn, and rollouts of zeros: what is copied does not matter. A sample is all of an update's draws,
each of them gathered, and the writing back of their priorities. Its limit and that of an insertion is the rate of a
copy: one elementwise program that reads and writes as many bytes in order.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any

import jax
from jax import numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

from podrl.experience.unroll import Unroller
from podrl.learning.learner import Learner
from podrl.learning.replay import make_replay, updates_before_learning
from podrl.learning.update_cost import tree_bytes
from podrl.loops.interface import Assembly
from podrl.mesh import trajectory_sharding
from podrl.performance.benchmark.instruments import StageTime, spread, time_calls
from podrl.performance.composition import COPY, INSERT, SAMPLE
from podrl.replay.batches import BatchRing
from podrl.replay.interface import Replay
from podrl.types import PyTree, Trajectory

_TURNS = 4  # In one call of a program, so that its dispatch counts little.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplayStages:
    """The stages of a run's replay.

    Attributes:
        timers: (seconds) -> what happened, of each stage by name.
        inserted_bytes: Bytes of experience that an update inserts.
        sampled_bytes: Bytes of experience that it learns from.
        env_steps_per_update: Env steps in an update.
    """

    timers: Mapping[str, Callable[[float], StageTime]]
    inserted_bytes: int
    sampled_bytes: int
    env_steps_per_update: int


def open_replay_stages(assembly: Assembly) -> ReplayStages | None:
    """Compiles the stages of a run's replay; returns None if it has none."""
    config, mesh = assembly.config, assembly.topology.learner
    replay = make_replay(config, assembly.agent, assembly.spec, mesh)
    if replay is None:
        return None
    learner = assembly.learner if isinstance(assembly.learner, Learner) else assembly.learner.learner
    rollouts = _make_rollouts(assembly)
    init = jax.jit(replay.init, out_shardings=learner.state_sharding.replay)
    insert = jax.jit(functools.partial(_insert, replay), donate_argnums=0)
    sample = jax.jit(functools.partial(_sample, replay), donate_argnums=0)
    ring, last, used = jax.eval_shape(lambda key: _sample_once(replay, replay.init(key)), jax.random.key(0))
    is_whole, keep = isinstance(ring, BatchRing), assembly.agent.keep
    carry = rollouts.carry if is_whole else jax.eval_shape(keep, rollouts.carry)
    inserted, sampled = tree_bytes(dataclasses.replace(rollouts, carry=carry)), tree_bytes(last) * used.size

    per_update = config.env_steps_per_update

    def time_ring(turns: Callable[[PyTree], PyTree], seconds: float) -> StageTime:
        ring = init(jax.random.key(config.seed))
        for _ in range(1 + updates_before_learning(config) // _TURNS):
            ring = insert(ring, rollouts)
        ring = jax.block_until_ready(turns(ring))

        def work() -> None:
            nonlocal ring
            ring = jax.block_until_ready(turns(ring))

        return time_calls(work, _TURNS * per_update, seconds)

    copy, split = jax.jit(jnp.bitwise_not), NamedSharding(mesh, PartitionSpec("data"))
    devices = mesh.shape["data"]
    words = jax.device_put(np.zeros((devices, -(-(inserted + sampled) // (4 * devices))), np.uint32), split)

    jax.block_until_ready(copy(words))

    def copy_all() -> None:
        jax.block_until_ready([copy(words) for _ in range(_TURNS)])

    timers = {
        INSERT: functools.partial(time_ring, lambda ring: insert(ring, rollouts)),
        SAMPLE: functools.partial(time_ring, lambda ring: sample(ring)[0]),
        COPY: functools.partial(time_calls, copy_all, _TURNS * per_update),
    }
    return ReplayStages(timers=timers, inserted_bytes=inserted, sampled_bytes=sampled, env_steps_per_update=per_update)


def relate_replay(
    found: ReplayStages, samples: Mapping[str, Sequence[StageTime]], whole: Sequence[StageTime]
) -> dict[str, Any]:
    """Relates replay to a copy, and to the stage that it is a part of.

    Args:
        found: The stages.
        samples: What happened in each repeat, of each stage by name.
        whole: What happened in learning, or in the compiled program.

    Returns:
        `insert_bytes` and `sample_bytes`, of an update; `insert_s` and `sample_s`, seconds of the learner's devices;
        `insert_of_copy` and `sample_of_copy`, their rates as fractions of a copy's; and `share`, what both take of the
        time of the whole. Fractions are taken in each repeat.
    """
    seconds = {name: found.env_steps_per_update * _seconds(samples[name]) for name in found.timers}
    sizes = {INSERT: found.inserted_bytes, SAMPLE: found.sampled_bytes}
    per_byte = seconds[COPY] / sum(sizes.values())
    both = seconds[INSERT] + seconds[SAMPLE]
    report: dict[str, Any] = {"share": spread(list(both / (found.env_steps_per_update * _seconds(whole))))}
    for name, size in sizes.items():
        report[f"{name}_bytes"] = size
        report[f"{name}_s"] = spread(list(seconds[name]))
        report[f"{name}_of_copy"] = spread(list(size * per_byte / seconds[name]))
    return report


def _insert(replay: Replay, ring: PyTree, rollouts: Trajectory) -> PyTree:
    """Inserts the same rollouts several times."""
    return jax.lax.fori_loop(0, _TURNS, lambda _, ring: replay.insert(ring, rollouts, jnp.array(True)), ring)


def _sample(replay: Replay, ring: PyTree) -> tuple[PyTree, PyTree]:
    """Samples for several updates; returns the ring and the last draw's sample, without which nothing is gathered."""
    ring, last, _ = _sample_once(replay, ring)
    return jax.lax.fori_loop(1, _TURNS, lambda _, both: _sample_once(replay, both[0])[:2], (ring, last))


def _sample_once(replay: Replay, ring: PyTree) -> tuple[PyTree, PyTree, jax.Array]:
    """Samples for one update; returns the ring, the last draw's sample, and which draws are used."""
    drawn, draws = replay.draw(ring)

    def take(_: PyTree, place: PyTree) -> tuple[PyTree, jax.Array]:
        taken = replay.gather(drawn, place)
        return taken, jnp.max(jnp.abs(taken.trajectory.reward), axis=0)

    shapes = jax.eval_shape(replay.gather, drawn, jax.tree.map(lambda x: x[0], draws.place))
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    last, priority = jax.lax.scan(take, nothing, draws.place)
    if not isinstance(ring, BatchRing):
        return replay.write(drawn, draws, priority), last, draws.used
    # Uses of whole batches would run out without insertions. As if all were new, the next draw is another one.
    counts = dataclasses.replace(ring.counts, inserted=ring.counts.inserted + ring.counts.left.size)
    return dataclasses.replace(ring, counts=counts), last, draws.used


def _make_rollouts(assembly: Assembly) -> Trajectory:
    """Returns rollouts of an update as the learner has joined them, [T, B], of zeros except for the rewards."""
    length, num_envs = assembly.config.actors.unroll_length, assembly.config.actors.num_envs
    unroller = Unroller(agent=assembly.agent, spec=assembly.spec, unroll_length=length, num_envs=num_envs)
    shapes = unroller.state_shape.rollout
    rewards = np.random.default_rng(0).random(shapes.reward.shape, np.float32)
    rollouts = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    rollouts = dataclasses.replace(rollouts, env_index=assembly.env_index, reward=rewards)
    return jax.device_put(rollouts, trajectory_sharding(assembly.topology.learner, shapes))


def _seconds(samples: Sequence[StageTime]) -> np.ndarray:
    """Returns the seconds of an env step, in each repeat."""
    return np.array([each.wall_s / each.env_steps for each in samples])
