"""What the compiled update of a ring does and does not: what crosses between devices, what it copies."""

import dataclasses
import functools
import re

import jax
from jax import numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from podrl.performance.planning.slices import parse_slice, tpu_devices
from podrl.replay.groups import ring_bytes
from podrl.replay.sampling import importance_weights
from podrl.replay.shape import RingShape
from podrl.replay.sharded import make_sequence_replay
from tests.replay.rings import BATCHES, KINDS, learner_mesh, new_priority, random_like, rollout_shape, update

COLLECTIVE = re.compile(r"= (.*?) (all-\w+|collective-\w+|reduce-scatter|ragged-\w+)(?:-start)?\(")


def learn(replay, params, ring, rollout, key):
    """An update that learns: a scan of gradient steps on samples, with the ring outside of its carry."""
    ring = replay.insert(ring, rollout)
    drawn = replay.draw(ring, key, BATCHES)

    def loss_of(params, sequences, weight):
        image = sequences.trajectory.observation["image"][:-1].astype(jnp.float32)
        value = jnp.einsum("tnhwc,hw->tn", image, params)
        loss = jnp.sum((value - sequences.trajectory.reward) ** 2 * weight)
        return loss / jnp.sum(sequences.trajectory.is_transition)

    def step(params, batch):
        one, weight = batch
        sequences = replay.gather(ring, one)
        grads = jax.grad(loss_of)(params, sequences, weight)
        return params - 1e-6 * grads, new_priority(one, sequences)

    params, new = jax.lax.scan(step, params, (drawn, importance_weights(drawn.probability, 0.6)))
    return params, replay.write(ring, drawn, new)


def placed(mesh, replay, rollout):
    split, timed = NamedSharding(mesh, P("data")), NamedSharding(mesh, P(None, "data"))
    ring = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), jax.eval_shape(replay.init), replay.sharding
    )
    place = lambda s: lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)  # noqa: E731
    return ring, rollout.map(place(timed), place(split))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("data", "model"), [(8, 1), (4, 2)])
def test_only_sums_of_floats_cross_between_devices(kind, data, model):
    rollout, mesh = rollout_shape(KINDS[kind]), learner_mesh(data, model)
    replay = make_sequence_replay(mesh, KINDS[kind], rollout)
    params = jax.ShapeDtypeStruct((36, 36), jnp.float32, sharding=NamedSharding(mesh, P()))
    jitted = jax.jit(functools.partial(learn, replay), donate_argnums=(0, 1))
    text = jitted.lower(params, *placed(mesh, replay, rollout), jax.eval_shape(jax.random.key, 0)).compile().as_text()
    found = COLLECTIVE.findall(text)
    assert found
    for results, collective in found:
        assert collective == "all-reduce"
        for dtype, sizes in re.findall(r"(\w+)\[([\d,]*)\]", results):
            assert dtype == "f32" or (dtype, sizes) == ("s32", ""), results  # The count of real transitions.
            assert np.prod([int(n) for n in sizes.split(",") if n]) <= 36 * 36, results


FRAMES = RingShape(
    num_envs=4, unroll_length=20, unrolls=40, length=40, stride=20, before=3, groups=2, batch=4, priority_exponent=0.9
)


@pytest.fixture(scope="module")
def frames():
    """A ring of 23 MB on one device, with a compiled update that is donated the ring."""
    rollout, mesh = rollout_shape(FRAMES, (84, 84, 1)), learner_mesh(1)
    replay = make_sequence_replay(mesh, FRAMES, rollout)
    jitted = jax.jit(functools.partial(update, replay), donate_argnums=0)
    compiled = jitted.lower(*placed(mesh, replay, rollout), jax.eval_shape(jax.random.key, 0)).compile()
    return replay, rollout, compiled


def test_a_donated_ring_is_written_in_place(frames):
    """Insertion, gathers in a loop and the write-back."""
    replay, _, compiled = frames
    memory, size = compiled.memory_analysis(), ring_bytes(jax.eval_shape(replay.init), 1)
    assert memory.alias_size_in_bytes >= size - 1024  # `env_index` is the rollout's.
    assert memory.temp_size_in_bytes < size / 3


@pytest.mark.parametrize("place", ["cpu", pytest.param("v5e:2x4", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("updates", "seeds"), [(1, 1), (5, 1), pytest.param(5, 3, marks=pytest.mark.slow)])
def test_a_ring_in_the_carry_of_a_loop_is_written_in_place(updates, seeds, place):
    """As where environments are inside the program; on 8 devices, and on chips that need not be there.

    Several seeds have a ring each.
    """
    if place != "cpu":
        pytest.importorskip("libtpu")
    devices = jax.devices()[:8] if place == "cpu" else tpu_devices(parse_slice(place))
    shape = dataclasses.replace(FRAMES, num_envs=32, batch=32, groups=8, unrolls=160)
    mesh = jax.sharding.Mesh(np.array(devices).reshape(8, 1), ("data", "model"))
    rollout = rollout_shape(shape, (84, 84, 1))
    replay = make_sequence_replay(mesh, shape, rollout)

    def make_updates(ring, rollout, key):
        def step(ring, number):
            ring, _, weights, sequences, _ = update(replay, ring, rollout, jax.random.fold_in(key, number))
            return ring, (jnp.sum(weights), jnp.sum(sequences.trajectory.observation["image"], dtype=jnp.uint32))

        return jax.lax.scan(step, ring, jnp.arange(updates))

    ring, rollout = placed(mesh, replay, rollout)
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype, sharding=NamedSharding(mesh, P()))
    arguments = (ring, rollout, key)
    if seeds > 1:
        arguments, make_updates = jax.tree.map(functools.partial(_of_seeds, seeds), arguments), jax.vmap(make_updates)
    memory = jax.jit(make_updates, donate_argnums=0).lower(*arguments).compile().memory_analysis()
    size = seeds * ring_bytes(jax.eval_shape(replay.init), 8)
    assert size > 90e6
    assert memory.alias_size_in_bytes >= size - 1024  # `env_index` is the rollout's.
    assert memory.temp_size_in_bytes < size / 3


def _of_seeds(seeds, x):
    sharding = NamedSharding(x.sharding.mesh, P(None, *x.sharding.spec))
    return jax.ShapeDtypeStruct((seeds, *x.shape), x.dtype, sharding=sharding)


def test_a_numpy_view_of_a_ring_costs_a_copy_and_changes_nothing(frames):
    replay, rollout, compiled = frames
    made = [random_like(rollout, np.random.default_rng(seed)) for seed in range(4)]
    rings = [jax.jit(replay.init, out_shardings=replay.sharding)() for _ in range(2)]
    for number, one in enumerate(made):
        view = np.asarray(rings[1].rows.observation["image"])
        seen = view.copy()
        rings = [compiled(ring, jax.device_put(one), jax.random.key(number))[0] for ring in rings]
        np.testing.assert_array_equal(view, seen)
        del view
    jax.tree.map(np.testing.assert_array_equal, *rings)


def test_environments_before_their_first_sequence_draw_nothing_and_stay_finite(frames):
    replay, rollout, compiled = frames
    ring = jax.jit(replay.init, out_shardings=replay.sharding)()
    one = random_like(rollout, np.random.default_rng(0))
    drawing = []
    for number in range(FRAMES.unrolls_until_live() + 1):
        drawing.append(int(FRAMES.num_live(ring.inserted)) > 0)
        ring, drawn, weights, _, _ = compiled(ring, jax.device_put(one), jax.random.key(number))
        assert np.isfinite(drawn.probability).all()
        assert np.isfinite(weights).all()
        is_live = int(FRAMES.num_live(ring.inserted)) > 0
        assert bool((drawn.probability > 0).all()) == bool((weights > 0).all()) == is_live
        assert bool((np.array(ring.priority) > 0).any()) == is_live
    assert drawing == [False] * FRAMES.unrolls_until_live() + [True]
