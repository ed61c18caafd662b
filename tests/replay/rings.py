"""Rings to test: rollouts that go on, an update around the ring's functions, and a plain buffer with the same rule."""

from collections.abc import Callable
import dataclasses
import functools
import itertools

import jax
from jax import numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from podrl.replay.ring import SequenceRing, Sequences
from podrl.replay.sampling import Drawn, importance_weights
from podrl.replay.shape import RingShape
from podrl.replay.sharded import SequenceReplay, make_sequence_replay
from podrl.types import Trajectory

B, POOLS, BATCHES = 32, 2, 3
RECURRENT = RingShape(
    num_envs=B,
    unroll_length=4,
    unrolls=4,
    length=8,
    stride=4,
    before=3,
    groups=16,
    batch=32,
    priority_exponent=0.9,
)
TRANSITIONS = dataclasses.replace(RECURRENT, length=3, stride=1, before=1, priority_exponent=0.6)
UNIFORM = dataclasses.replace(TRANSITIONS, length=1, priority_exponent=None)
KINDS = {"recurrent": RECURRENT, "transitions": TRANSITIONS, "uniform": UNIFORM}
IMAGE = (36, 36, 1)  # Two tiles, with padding.


def learner_mesh(data: int, model: int = 1) -> Mesh:
    return Mesh(np.array(jax.devices()[: data * model]).reshape(data, model), ("data", "model"))


def rollout_shape(shape: RingShape, image: tuple[int, ...] = IMAGE) -> Trajectory:
    num, length = shape.num_envs, shape.unroll_length

    def timed(*sizes: int, rows: int = length, dtype: type = np.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, num, *sizes), dtype)

    has_carry = shape.stride == length
    return Trajectory(
        observation={"image": timed(*image, rows=length + 1, dtype=np.uint8), "vector": timed(3, rows=length + 1)},
        first=timed(rows=length + 1, dtype=np.bool_),
        action=timed(dtype=np.int32),
        reward=timed(),
        discount=timed(),
        behaviour={},
        carry={"core": jax.ShapeDtypeStruct((num, 5), np.float32)} if has_carry else (),
        opening_reward=jax.ShapeDtypeStruct((num,), np.float32),
        env_index=jax.ShapeDtypeStruct((num,), np.uint32),
        params_version=timed(dtype=np.int32),
    )


def random_like(shapes, generator: np.random.Generator):
    def make(x):
        size = (int(np.prod(x.shape)) or 1) * np.dtype(x.dtype).itemsize
        if x.dtype == np.float32:
            return generator.standard_normal(x.shape).astype(np.float32)
        if x.dtype == np.bool_:
            return generator.random(x.shape) < 0.15
        return np.frombuffer(generator.bytes(size), x.dtype).reshape(x.shape)

    return jax.tree.map(make, shapes)


class Rollouts:
    """Rollouts of B environments in their own order, each from where the one before ended, or reopened."""

    def __init__(self, shape: RingShape, seed: int = 0):
        self._like, self._generator, self._last = rollout_shape(shape), np.random.default_rng(seed), None

    def make(self, *, reopened: bool = False) -> Trajectory:
        made = random_like(self._like, self._generator)
        resets = np.copy(made.first)
        if self._last is None or reopened:
            resets[0], opening = True, np.zeros(B, np.float32)
        else:
            resets[0], opening = self._last.first[-1], self._last.reward[-1]
            for name in made.observation:
                made.observation[name] = made.observation[name].copy()
                made.observation[name][0] = self._last.observation[name][-1]
        made = dataclasses.replace(
            made,
            first=resets,
            reward=np.where(resets[1:], np.float32(0), made.reward),
            discount=np.where(resets[1:] | (made.discount > -1), np.float32(1), np.float32(0)),
            opening_reward=opening,
            env_index=np.arange(B, dtype=np.uint32),
        )
        self._last = made
        return made


def joined_order(devices: int) -> np.ndarray:
    """The environments' order in a batch of several pools, which every device joins by itself."""
    pools = np.arange(B).reshape(POOLS, devices, -1)
    return pools.swapaxes(0, 1).reshape(-1)


def permute(rollout: Trajectory, order: np.ndarray) -> Trajectory:
    return rollout.map(lambda x: x[:, order], lambda x: x[order])


def new_priority(drawn: Drawn, sequences: Sequences) -> jax.Array:
    """As an agent might: some large, one of 0, some not finite."""
    error = jnp.max(jnp.abs(sequences.trajectory.reward), axis=0)
    return jnp.where(drawn.number == 5, 0, jnp.where(drawn.number % 7 == 3, jnp.nan, error))


def update(replay: SequenceReplay, ring: SequenceRing, rollout: Trajectory, key: jax.Array):
    """One update without learning: returns the ring, what was drawn, weights, all sequences and their priorities."""
    ring = replay.insert(ring, rollout)
    drawn = replay.draw(ring, key, BATCHES)

    def step(_, one):
        sequences = replay.gather(ring, one)
        return (), (sequences, new_priority(one, sequences))

    _, (sequences, new) = jax.lax.scan(step, (), drawn)
    return replay.write(ring, drawn, new), drawn, importance_weights(drawn.probability, 0.6), sequences, new


@dataclasses.dataclass
class Run:
    """What the updates of a run returned, on the host; sequences by update."""

    order: np.ndarray
    drawn: list
    weights: list
    sequences: list
    new: list
    rings: list


@functools.cache
def run(kind: str, data: int, model: int = 1, updates: int = 10) -> Run:
    """Updates on this many devices, twice around the ring and more; at the sixth the environments are reopened."""
    shape, order = KINDS[kind], joined_order(data)
    replay = make_sequence_replay(learner_mesh(data, model), shape, rollout_shape(shape))
    rollouts, made = Rollouts(shape), Run(order, [], [], [], [], [])
    jitted = jax.jit(functools.partial(update, replay), donate_argnums=0)
    ring = jax.jit(replay.init, out_shardings=replay.sharding)()
    for number in range(updates):
        rollout = permute(rollouts.make(reopened=number == 5), order)
        ring, *results = jitted(ring, rollout, jax.random.key(number))
        for kept, result in zip((made.drawn, made.weights, made.sequences, made.new), results, strict=True):
            kept.append(jax.device_get(result))
        small = dataclasses.replace(ring, rows=(), carry=())
        made.rings.append(jax.tree.map(np.array, small))
    return made


def envs_of(shape: RingShape, order: np.ndarray, drawn: Drawn) -> np.ndarray:
    """[K, N] the environments of drawn sequences in the job, from their position in the devices' order."""
    first = np.arange(shape.batch) // shape.draws * shape.group_size
    return order[first + drawn.env]


def draw_everywhere(kind: str, devices: int, updates: int = 6) -> list[dict[str, list]]:
    """What updates draw on so many devices, of which each process of a job may have some; whole on each process.

    Returns:
        For each update [K, N] lists, in the order of the sequences' numbers: the environments in the job, the starts,
        and the bits of the probabilities.
    """
    shape, mesh, order = KINDS[kind], learner_mesh(devices), joined_order(devices)
    replay, rollouts = make_sequence_replay(mesh, shape, rollout_shape(shape)), Rollouts(shape)
    timed, split, whole = (NamedSharding(mesh, P(*axes)) for axes in ((None, "data"), ("data",), ()))

    def step(ring: SequenceRing, rollout: Trajectory, seed: jax.Array) -> tuple[SequenceRing, Drawn]:
        return update(replay, ring, rollout, jax.random.key(seed))[:2]

    def place(sharding: NamedSharding) -> Callable[[np.ndarray], jax.Array]:
        return lambda x: jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    jitted, gather = jax.jit(step, donate_argnums=0), jax.jit(lambda drawn: drawn, out_shardings=whole)
    ring, found = jax.jit(replay.init, out_shardings=replay.sharding)(), []
    for number in range(updates):
        rollout = permute(rollouts.make(reopened=number == 4), order).map(place(timed), place(split))
        ring, drawn = jitted(ring, rollout, number)
        drawn = jax.device_get(gather(drawn))
        by_number = np.argsort(drawn.number, axis=-1)
        fields = {"env": envs_of(shape, order, drawn), "slot": drawn.slot, "bits": drawn.probability.view(np.uint32)}
        found.append({name: np.take_along_axis(x, by_number, -1).tolist() for name, x in fields.items()})
    return found


class PlainBuffer:
    """Every row that the ring should hold, by environment and number of the row, and priorities by start."""

    def __init__(self, shape: RingShape):
        self.shape, self.rows, self.carries, self.priority = shape, {}, {}, {}
        self.inserted, self.peak = 0, np.ones(shape.groups, np.float32)

    def insert(self, rollout: Trajectory) -> None:
        """A rollout in the environments' own order."""
        shape, begin = self.shape, self.inserted * self.shape.unroll_length
        end = begin + shape.unroll_length
        for env in range(shape.num_envs):
            for t in range(shape.unroll_length + 1):
                row = {"observation": {k: x[t, env] for k, x in rollout.observation.items()}}
                row["first"] = rollout.first[t, env]
                if t < shape.unroll_length:
                    row |= {k: getattr(rollout, k)[t, env] for k in ("action", "reward", "discount", "params_version")}
                self.rows[env, begin + t] = row
            self.carries[env, begin] = jax.tree.map(lambda x, env=env: x[env], rollout.carry)
        self.inserted += 1
        for env in range(shape.num_envs):
            for a in range(0, end + 1, shape.stride):
                if not a - shape.before >= max(0, end - shape.rows + 1) or a + shape.length > end:
                    self.priority.pop((env, a), None)
                elif a + shape.length > end - shape.unroll_length:
                    self.priority[env, a] = self.peak[env // shape.group_size]

    def sequence(self, env: int, start: int) -> tuple[list[dict], list[dict], dict]:
        """Rows before a sequence, its own, and the carry before it."""
        numbers = range(start - self.shape.before, start + self.shape.length + 1)
        rows = [dict(self.rows[env, number]) for number in numbers]
        for row, after in itertools.pairwise(rows):
            if after["first"]:
                row |= {"reward": np.float32(0), "discount": np.float32(1)}
        return rows[: self.shape.before], rows[self.shape.before :], self.carries.get((env, start), ())

    def newest_start(self, slot: int) -> int:
        """The number of the newest start at a place of the ring."""
        last = self.inserted * self.shape.unroll_length // self.shape.stride - 1
        return (last - (last - slot) % self.shape.starts) * self.shape.stride

    def share(self, env: int, start: int) -> float:
        """The probability of a start in a draw of its batch."""
        group = env // self.shape.group_size
        live = {k: p for k, p in self.priority.items() if k[0] // self.shape.group_size == group}
        if self.shape.priority_exponent is None:
            return 1 / len(live) / self.shape.groups
        return live[env, start] / sum(map(float, live.values())) / self.shape.groups

    def write(self, envs, starts, probability, new) -> None:
        """The largest of what is finite, for each start."""
        if self.shape.priority_exponent is None:
            return
        largest: dict = {}
        for env, start, share, priority in zip(envs, starts, probability, new, strict=True):
            if np.isfinite(priority) and share > 0:
                power = np.clip(np.float32(max(priority, 0)) ** np.float32(self.shape.priority_exponent), 1e-12, 1e30)
                largest[env, start] = max(largest.get((env, start), 0), power)
                group = env // self.shape.group_size
                self.peak[group] = max(self.peak[group], power)
        self.priority |= largest
