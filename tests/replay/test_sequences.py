"""Updates that learn from a ring of sequences: the same on any number of devices, in place, once it has enough."""

import dataclasses
import functools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.agents.parts.sequences import take_transitions
from podrl.assembly import assemble
from podrl.config.config import ConfigError, ReplayConfig
from podrl.experience.layout import Layout
from podrl.learning.learner import Learner
from podrl.learning.replay import describe_replay, make_replay
from podrl.networks.available import make_networks
from podrl.replay.ring import empty_ring, gather_sequences, insert_rollout
from podrl.replay.sampling import draw_starts
from podrl.replay.sequences import ages
from podrl.runs.replay_pieces import read_pieces, write_pieces
from podrl.runs.state_arrays import to_array_shapes, to_arrays
from tests.learning.test_learner import find_collectives, shapes, take_environments
from tests.replay.rings import BATCHES, KINDS, Rollouts, learner_mesh, rollout_shape
from tests.replay.test_batches import LARGE_RINGS, mesh_of, place
from tests.short_runs import anakin_config, make_agent, make_config, random_trajectory, run

SEQUENCES = {
    "agent": "r2d2",
    "replay__capacity": 400,
    "replay__batch": 16,
    "replay__groups": 4,
    "agent__target_period": 3,
    "agent__burn_in": 5,
    "agent__length": 5,
    "replay__ratio": 2.0,
}
UNROLLS = {**SEQUENCES, "network__core": "lstm", "network__core_size": 8, "network__last_action": True}
ROWS = {**SEQUENCES, "agent__starts": "rows", "agent__burn_in": 0, "agent__length": 1, "replay__ratio": 0.4}
CRITICS = {
    **{name: value for name, value in SEQUENCES.items() if not name.startswith("agent")},
    **{"env_id": "InvertedDoublePendulum-v5", "agent": "sac", "replay__ratio": 0.4},
    **{"network__squash_actions": True, "network__action_scale": "observed", "agent__random_steps": 2000},
}
PIXELS = {
    **{name: value for name, value in SEQUENCES.items() if not name.startswith("agent")},
    **{"env_id": "dot", "env__source": "tests.envs.dot", "agent": "drq", "replay__ratio": 0.4},
    **{"network__encoder": "drq", "agent__features": 8, "agent__random_steps": 2000},
}
ATOMS = {**ROWS, "agent": "rainbow", "agent__auxiliary__kind": "value", "agent__auxiliary__distance": "mse"}
AT = {"unrolls": UNROLLS, "rows": ROWS, "critics": CRITICS, "pixels": PIXELS, "atoms": ATOMS}


def going_on(trajectory, before):
    """A random trajectory that begins where another ended."""
    first = trajectory.first.at[0].set(before.first[-1])
    observation = trajectory.observation.at[0].set(before.observation[-1])
    return dataclasses.replace(trajectory, first=first, observation=observation, opening_reward=before.reward[-1])


@functools.cache
def train(at, num_devices, num_pools=2, num_updates=9, num_envs=32):
    """A learner and its state after updates with rollouts in pools; the compiled update and its metrics."""
    ring = {"replay__capacity": 25 * num_envs, "replay__groups": 8, "network__frame_stack": 3}
    config = make_config(**{**AT[at], **ring}, actors__num_envs=num_envs, actors__unroll_length=5)
    agent, spec = make_agent(config)
    mesh = mesh_of(num_devices)
    learner = Learner(agent, mesh, replay=make_replay(config, agent, spec, mesh))
    state, found, batch = learner.init(seed=3), [], None
    for update in range(num_updates):
        last, batch = batch, random_trajectory(agent, spec, length=5, num_envs=num_envs, seed=update)
        batch = batch if last is None else going_on(batch, last)
        pools = [take_environments(batch, part, num_pools) for part in range(num_pools)]
        if update == 0:
            compiled = learner.compile([shapes(pool) for pool in pools])
        state, metrics = learner.update(state, [place(mesh, pool) for pool in pools])
        found.append(jax.device_get(metrics))
    return learner, compiled, state, found


def by_environment(ring):
    ring = jax.device_get(dataclasses.replace(ring, key=()))
    order = np.argsort(ring.env_index)
    groups = ring.env_index[:: len(order) // len(ring.peak)].argsort()
    taken = jax.tree.map(lambda x: x[order], (ring.rows, ring.carry, ring.priority, ring.env_index))
    return *taken, ring.peak[groups]


@pytest.mark.parametrize(
    ("at", "num_devices", "num_pools"),
    [
        ("unrolls", 8, 1),
        ("rows", 2, 2),
        ("atoms", 8, 1),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("unrolls", 4, 2),
                ("rows", 4, 2),
                ("rows", 8, 1),
                ("critics", 8, 1),
                ("critics", 4, 2),
                ("pixels", 8, 1),
            )
        ),
    ],
)
def test_any_number_of_devices_draws_the_same_and_learns_the_same(at, num_devices, num_pools):
    """Priorities that are not the first ones' are where the same was drawn."""
    _, _, one, expected = train(at, 1)
    _, compiled, several, found = train(at, num_devices, num_pools)
    rings = [by_environment(state.replay) for state in (one, several)]
    for ours, theirs in zip(rings[0][:2], rings[1][:2], strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    priorities = [ring[2] for ring in rings]
    np.testing.assert_array_equal(*(priority == 1 for priority in priorities))
    assert np.mean((priorities[0] != 1) & (priorities[0] > 0)) > 0.05
    np.testing.assert_allclose(*priorities, rtol=1e-3)
    np.testing.assert_array_equal(*(jax.random.key_data(state.replay.key) for state in (one, several)))
    for x, y in zip(jax.tree.leaves(one.params), jax.tree.leaves(several.params), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5 * max(np.abs(x).max(), 1e-2))
    for ours, theirs in zip(expected, found, strict=True):
        for name in ("replay/size", "replay/age", "replay/ratio", "loss/weight", "loss/total", "replay/priority_mean"):
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-6, err_msg=name)

    collectives = find_collectives(compiled)
    assert {kind for kind, _ in collectives} == {"all-reduce"}
    largest = max(x.size for x in jax.tree.leaves(one.params))
    assert max(size for _, sizes in collectives for size in sizes) <= largest


@pytest.mark.parametrize("at", [at for at in AT if at != "pixels"])
def test_an_update_learns_as_often_as_its_ratio_says_once_there_is_a_sequence(at):
    _, _, state, found = train(at, 1)
    ratios = [float(metrics["replay/ratio"]) for metrics in found]
    filling = next(n for n, ratio in enumerate(ratios) if ratio)
    np.testing.assert_allclose(ratios, [0.0] * filling + [AT[at]["replay__ratio"]] * (9 - filling), rtol=1e-6)
    assert filling == {"unrolls": 2, "rows": 1, "critics": 0, "atoms": 1}[at]
    assert int(state.learner_step) == 4 * (9 - filling)
    assert all(np.isfinite(x) for metrics in found for x in metrics.values())
    assert [float(metrics["replay/size"]) for metrics in found] == [1, 2, 3, 4, 5, 5, 5, 5, 5]
    assert all(0 <= metrics["replay/age"] <= 4 for metrics in found)


def test_nothing_is_learned_before_the_fewest_steps_are_there():
    settings = {**ROWS, "replay__groups": 2, "replay__ratio": 0.5, "replay__min_steps": 3 * 8 * 4 + 1}
    config = make_config(**settings)
    _, rows = run(config)
    assert [row["replay/ratio"] for row in rows] == [0, 0, 0, *[0.5] * 7]
    assert len({row["fingerprint/params"] for row in rows}) == 1 + 7
    assert all(np.isfinite(row[name]) for row in rows for name in ("loss/total", "grad/norm", "replay/age"))


@pytest.mark.parametrize("kind", KINDS)
def test_no_sequence_has_a_row_of_a_rollout_that_is_not_fit(kind):
    """Also where the environments were reopened after it, and twice around the ring."""
    shape = dataclasses.replace(KINDS[kind], groups=2)
    like = rollout_shape(shape)
    insert = jax.jit(functools.partial(insert_rollout, shape))
    draw = jax.jit(functools.partial(draw_starts, shape, BATCHES))
    gather = jax.jit(functools.partial(gather_sequences, shape, like))
    rollouts, ring, drawn_before = Rollouts(shape), empty_ring(shape, like), 0
    for number in range(14):
        fit = number not in (4, 9)
        rollout = rollouts.make(reopened=number in (5, 9))
        if not fit:
            vector = np.full_like(rollout.observation["vector"], np.nan)
            rollout = dataclasses.replace(rollout, observation={**rollout.observation, "vector": vector})
        ring = insert(ring, jax.tree.map(jnp.asarray, rollout), jnp.bool_(fit))
        drawn = draw(ring.priority, ring.env_index, ring.inserted, jax.random.key(number), ring.fit_unrolls)
        for k in range(BATCHES):
            sequences = gather(ring, drawn.env[k], drawn.slot[k], drawn.number[k])
            possible = np.asarray(drawn.probability[k]) > 0
            older = possible & (np.asarray(ages(shape, ring.inserted, drawn.slot[k])) > 1)
            drawn_before += int(older.sum()) if number in (5, 10) else 0
            for rows in (sequences.trajectory, sequences.before):
                seen = np.asarray(rows.observation["vector"])[:, possible]
                assert np.isfinite(seen).all()
    assert possible.all()
    assert (drawn_before > 0) == (kind == "transitions")  # Older ones, where the ring has some without a row of it.


def test_the_age_of_a_sequence_is_counted_from_its_last_transition():
    shape = KINDS["recurrent"]  # Unrolls of 4 rows, sequences of 8, 4 unrolls.
    assert ages(shape, jnp.int32(6), jnp.array([0, 3, 2])).tolist() == [0, 1, 2]
    shape = KINDS["uniform"]  # Single transitions; the newest row is 23, in place 7 of 16.
    assert ages(shape, jnp.int32(6), jnp.array([7, 4, 3, 8])).tolist() == [0, 0, 1, 3]


@functools.cache
def compile_large(seen, placement):
    """An update of a ring that outweighs all else, and the ring's bytes on a device."""
    overrides = {**ROWS, "replay__capacity": 20_000, "network__hidden_sizes": (8,), "replay__groups": 2}
    overrides |= {"actors__unroll_length": 4, "replay__ratio": 0.5}
    if placement == "anakin":
        env_id = {"frames": "Breakout-MinAtar", "vectors": "CartPole-v1"}[seen]
        config = anakin_config(env_id, **overrides, topology__updates_per_call=3)
    elif seen == "frames":
        config = make_config("Breakout-v5", **{**overrides, "replay__capacity": 2_000})
    else:
        config = make_config("Catch-v0", **overrides)
    assembly = assemble(config, jax.devices()[:1])
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(assembly.state_shape.replay))
    return assembly.compile().update, size, assembly


@pytest.mark.parametrize(("seen", "placement"), LARGE_RINGS)
def test_the_ring_is_written_in_place(seen, placement):
    compiled, size, _ = compile_large(seen, placement)
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < size / 2
    assert memory.alias_size_in_bytes >= size - 1024  # `env_index` is the rollout's.


def test_bytes_are_said_before_anything_is_compiled():
    parts = assemble(make_config(**UNROLLS, actors__unroll_length=5, actors__num_envs=16), jax.devices()[:1])
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(parts.state_shape.replay))
    assert describe_replay(parts.config, parts.state_shape) == (
        "the newest 400 env steps, 25 of each environment; an update learns 2 times from 16 sequences of 10, drawn "
        f"from 4 groups: {size / 2**10:.2f} KiB on each learner device, {size / 2**10:.2f} KiB in the newest checkpoint"
    )


def test_a_restored_ring_gives_each_environment_its_rows_on_another_number_of_devices(tmp_path):
    """Two pools of sixteen lie in another order on two devices than on one."""
    learner, _, own, _ = train("unrolls", 2)
    _, _, other, _ = train("unrolls", 1)
    layout = Layout(num_actors=1, pools_per_actor=2, envs_per_pool=16, num_processes=1)
    write_pieces(tmp_path, to_arrays(other)["replay"], layout.joined_indices(1))
    restored = read_pieces(tmp_path, to_array_shapes(learner.state_shape)["replay"], layout.joined_indices(2))
    np.testing.assert_array_equal(restored.env_index, own.replay.env_index)
    assert not np.array_equal(other.replay.env_index, own.replay.env_index)
    for ours, theirs in zip(by_environment(restored), by_environment(other.replay), strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert jax.tree.map(lambda x: x.sharding, restored) == learner.state_sharding.replay


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"replay__ratio": 0.75}, r"gives 0.75 learner steps in an update.* 80 transitions .* Use replay.ratio=1\.$"),
        ({"replay__ratio": 1.5}, r"gives 1.5 learner steps .* Use replay.ratio=1 or 2\.$"),
        ({"agent__length": 7}, r"agent.length=7 are 12 steps, not whole unrolls .* Use agent.length=5 or 10"),
        ({"replay__groups": 3}, r"replay.groups=3 does not fit: .* 2, 4, 8 or 16\.$"),
        ({"replay__capacity": 80}, r"holds 1 unrolls .* replay.capacity to at least 240"),
        (
            {"topology__micro_batches": 3},
            "micro_batches=3 does not divide the 16 sequences that one learner device has",
        ),
    ],
)
def test_numbers_that_do_not_fit_are_refused_with_some_that_do(overrides, message):
    config = make_config(**{**UNROLLS, "actors__num_envs": 16, "actors__unroll_length": 5, **overrides})
    with pytest.raises(ConfigError, match=message):
        assemble(config, jax.devices()[:1])


@pytest.mark.parametrize(
    ("agent", "overrides", "message"),
    [
        ("impala", {"replay__capacity": 7}, r"^replay.capacity=7 is for .* agent.name='impala' learns from fresh"),
        ("impact", {"replay__ratio": 7.0, "replay__groups": 2}, r"ratio=7.0 and replay.groups=2 are .* whole batches"),
        ("r2d2", {"replay__uses": 2}, r"replay.batches=1 and replay.uses=2 are for .* learns from sequences"),
    ],
)
def test_keys_of_the_other_kind_of_ring_are_refused(agent, overrides, message):
    with pytest.raises(ConfigError, match=message):
        make_config(agent=agent, **overrides)


def test_learning_that_could_never_begin_is_refused():
    with pytest.raises(ConfigError, match=r"replay.min_steps=200 is never reached by a ring of replay.capacity=100"):
        ReplayConfig(capacity=100, min_steps=200)


def test_what_a_network_makes_of_a_sequence_is_the_carry_that_the_actor_had():
    """Frames, last action and LSTM, for every sequence that is drawn, of rollouts that one network unrolled."""
    config = make_config(**UNROLLS, network__frame_stack=3, actors__num_envs=16, actors__unroll_length=5)
    agent, spec = make_agent(config)
    network = make_networks(config.network, spec).q(dueling=True)
    replay = make_replay(config, agent, spec, learner_mesh(1))
    params, ring = network.init(jax.random.key(0)), replay.init(jax.random.key(1))
    insert, carries, before, batch = jax.jit(replay.insert), {}, None, None

    @jax.jit
    def after(trajectory):
        _, carry = network.unroll(params, take_transitions(trajectory, 0, 4))
        return network.remember(carry, trajectory.action[4])

    carry = network.initial_carry(16)
    for number in range(6):
        before, batch = batch, random_trajectory(agent, spec, length=5, num_envs=16, seed=number)
        batch = batch if before is None else going_on(batch, before)
        own = dataclasses.replace(batch.carry, network=carry)
        ring = insert(ring, dataclasses.replace(batch, carry=own), True)
        for env, observation in enumerate(np.asarray(batch.observation[0])):
            carries[observation.tobytes()] = jax.tree.map(lambda x, env=env: x[env], carry)
        carry = after(dataclasses.replace(batch, carry=carry))
    draw = jax.jit(replay.draw)
    ring_after, draws = draw(ring)
    assert np.asarray(draws.used).all()
    jax.tree.map(np.testing.assert_array_equal, draw(ring)[1], draws)
    assert (draw(ring_after)[1].place.drawn.slot != draws.place.drawn.slot).any()  # Every update has another key.
    for k in range(2):
        sample = jax.jit(replay.gather)(ring, jax.tree.map(lambda x, k=k: x[k], draws.place))
        assert sample.before.first.shape == (2, 16)
        found = network.resume(sample.trajectory.carry, sample.before)
        expected = [carries[observation.tobytes()] for observation in np.asarray(sample.trajectory.observation[0])]
        jax.tree.map(np.testing.assert_array_equal, found, jax.tree.map(lambda *x: np.stack(x), *expected))
