"""The ring of whole batches: against a plain list of batches, on any number of devices, in place."""

import dataclasses
import functools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.assembly import assemble
from podrl.config.config import ConfigError, ReplayConfig, TopologyConfig
from podrl.experience.layout import Layout
from podrl.learning.intake import join_environments
from podrl.learning.learner import Learner
from podrl.learning.replay import describe_replay, make_replay
from podrl.mesh import make_topology, trajectory_sharding
from podrl.replay.batches import make_batch_replay
from tests.learning.test_learner import find_collectives, shapes, take_environments
from tests.short_runs import anakin_config, make_agent, make_config, random_trajectory, run

RINGS = [(1, 3), (2, 2), (4, 2), (3, 5), (16, 20)]
RING = {"agent": "impact", "replay__batches": 3, "replay__uses": 2}


@functools.cache
def draws_of(num_batches, uses, num_updates, seed=0):
    """The number of the batch, from 0, of every draw that each update uses; what a ring says of it."""
    replay = make_batch_replay(ReplayConfig(batches=num_batches, uses=uses), shapes(make_rollouts(0)))

    @jax.jit
    def update(ring, rollouts):
        return replay.draw(replay.insert(ring, rollouts))

    ring, found = replay.init(jax.random.key(seed)), []
    for number in range(num_updates):
        ring, draws = update(ring, make_rollouts(number))
        used, age = np.asarray(draws.used), np.asarray(draws.age)
        assert not np.any(np.diff(used.astype(int)) > 0)
        found.append([number - int(n) for n in age[used]])
    return found, ring, replay


@functools.cache
def make_rollouts(seed):
    agent, spec = rollouts_come_from()
    return random_trajectory(agent, spec, length=2, num_envs=4, seed=seed)


@functools.cache
def rollouts_come_from():
    return make_agent(make_config(network__frame_stack=2, agent="impact"))


@pytest.mark.parametrize(("num_batches", "uses"), RINGS)
class TestDraws:
    def test_no_batch_is_used_more_often_than_it_may_be_and_each_is_used_up_in_time(self, num_batches, uses):
        found, *_ = draws_of(num_batches, uses, 3 * num_batches + 5)
        used = np.bincount(np.concatenate(found), minlength=len(found))
        assert used.max() <= uses
        np.testing.assert_array_equal(used[: len(found) - num_batches + 1], uses)

    def test_only_batches_in_the_ring_are_drawn(self, num_batches, uses):
        found, *_ = draws_of(num_batches, uses, 3 * num_batches + 5)
        for number, drawn in enumerate(found):
            assert max(0, number - num_batches + 1) <= min(drawn) <= max(drawn) <= number

    def test_a_full_ring_learns_as_often_as_a_batch_has_uses_and_a_filling_one_less(self, num_batches, uses):
        counts = [len(drawn) for drawn in draws_of(num_batches, uses, 3 * num_batches + 5)[0]]
        assert set(counts[num_batches - 1 :]) == {uses}
        assert all(1 <= count <= uses for count in counts)
        left = (num_batches - 1) * uses - sum(counts[: num_batches - 1])
        assert abs(left - (num_batches - 1) * uses / 2) <= 1  # Half of the uses of all but the newest.


def test_draws_follow_from_the_seed_and_are_spread_over_all_ages():
    found, *_ = draws_of(4, 2, 80)
    again, *_ = draws_of.__wrapped__(4, 2, 80)
    assert found == again
    assert found != draws_of(4, 2, 80, seed=1)[0]
    ages = np.concatenate([number - np.asarray(drawn) for number, drawn in enumerate(found)])
    assert np.all(np.bincount(ages, minlength=4) > 16)  # Of 160.


def test_what_is_drawn_is_what_was_inserted():
    """Every leaf, the carry included, of every batch that is in the ring; frames come back as bytes."""
    _, ring, replay = draws_of(3, 5, 14)
    gather = jax.jit(replay.gather)
    assert int(replay.size(ring)) == 3
    for number in (11, 12, 13):
        sample = gather(ring, number % 3)
        jax.tree.map(np.testing.assert_array_equal, sample.trajectory, make_rollouts(number))
        np.testing.assert_array_equal(sample.weight, 1)


def test_a_batch_that_is_never_learned_from_again_is_a_mistake():
    with pytest.raises(ConfigError, match=r"replay.batches=4 keeps batches that replay.uses=1 never learns from"):
        ReplayConfig(batches=4)
    with pytest.raises(ConfigError, match=r"replay.batches=0 must lie in"):
        ReplayConfig(batches=0)


@pytest.mark.parametrize("agent", ["impala", "ppo"])
def test_an_agent_that_learns_from_fresh_batches_refuses_the_keys(agent):
    with pytest.raises(ConfigError, match=rf"replay.batches=1 and replay.uses=3 are for .* agent.name='{agent}'"):
        make_config(agent=agent, replay__uses=3)


def mesh_of(num_devices):
    config = TopologyConfig(actor_devices_per_process=1, learner_devices_per_process=num_devices)
    return make_topology(config, jax.devices()[:num_devices]).learner


def place(mesh, trajectory):
    return jax.device_put(trajectory, trajectory_sharding(mesh, trajectory))


@functools.cache
def train(num_devices, num_updates=7, num_pools=2, num_envs=16):
    """A learner, its compiled update and its states after each update, with rollouts in pools."""
    config = make_config(**RING, actors__num_envs=num_envs, actors__unroll_length=5)
    agent, spec = make_agent(config)
    mesh = mesh_of(num_devices)
    learner = Learner(agent, mesh, replay=make_replay(config, agent, spec, mesh))
    state, found = learner.init(seed=3), []
    for update in range(num_updates):
        batch = random_trajectory(agent, spec, length=5, num_envs=num_envs, seed=update)
        pools = [take_environments(batch, part, num_pools) for part in range(num_pools)]
        if update == 0:
            compiled = learner.compile([shapes(pool) for pool in pools])
        state, metrics = learner.update(state, [place(mesh, pool) for pool in pools])
        found.append(jax.device_get(metrics))
    return learner, compiled, state, found


@pytest.mark.parametrize("num_devices", [2, pytest.param(4, marks=pytest.mark.slow), 8])
def test_any_number_of_devices_draws_the_same_and_learns_the_same(num_devices):
    _, _, one, expected = train(1)
    _, compiled, several, found = train(num_devices)
    jax.tree.map(
        np.testing.assert_array_equal,
        *(jax.device_get(dataclasses.replace(state.replay.counts, key=())) for state in (one, several)),
    )
    for x, y in zip(jax.tree.leaves(one.params), jax.tree.leaves(several.params), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5 * np.abs(x).max())
    for ours, theirs in zip(expected, found, strict=True):
        assert [ours[f"replay/{n}"] for n in ("size", "age", "ratio")] == [
            theirs[f"replay/{n}"] for n in ("size", "age", "ratio")
        ]
        np.testing.assert_allclose(ours["loss/total"], theirs["loss/total"], rtol=1e-3, atol=1e-5)
    assert int(one.learner_step) == sum(int(metrics["replay/ratio"]) for metrics in expected) == 1 + 1 + 5 * 2

    collectives = find_collectives(compiled)
    assert {kind for kind, _ in collectives} == {"all-reduce"}
    largest = max(x.size for x in jax.tree.leaves(one.params))
    assert max(size for _, sizes in collectives for size in sizes) <= largest


def test_what_is_not_finite_fails_the_update_that_inserts_it_and_is_never_drawn():
    config = make_config(**RING)
    agent, spec = make_agent(config)
    mesh = mesh_of(1)
    learner = Learner(agent, mesh, replay=make_replay(config, agent, spec, mesh), skips_nonfinite=True)
    state, skipped = learner.init(seed=3), []
    for update in range(9):
        batch = random_trajectory(agent, spec, length=4, num_envs=8, seed=update)
        if update == 3:
            batch = dataclasses.replace(batch, reward=batch.reward * np.nan)
        state, metrics = learner.update(state, [place(mesh, batch)])
        skipped.append(float(metrics["grad/skipped"]))
    assert skipped == [0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((state.params, state.extra, state.opt_state)))
    assert int(state.step) == 9


@pytest.mark.parametrize(("num_actors", "pools", "processes", "devices"), [(1, 2, 1, 4), (2, 2, 2, 4), (1, 1, 2, 2)])
def test_layouts_know_the_order_of_joined_environments(num_actors, pools, processes, devices):
    layout = Layout(num_actors=num_actors, pools_per_actor=pools, envs_per_pool=4, num_processes=processes)
    mesh, (agent, spec) = mesh_of(devices), rollouts_come_from()
    size = 4 * processes
    rollouts = []
    for actor in range(num_actors):
        for pool in range(pools):
            indices = [layout.env_indices(process, actor, pool) for process in range(processes)]
            rollout = random_trajectory(agent, spec, length=1, num_envs=size)
            rollouts.append(place(mesh, dataclasses.replace(rollout, env_index=jnp.concatenate(indices))))
    joined = jax.jit(lambda *rollouts: join_environments(mesh, rollouts).env_index)(*rollouts)
    np.testing.assert_array_equal(joined, layout.joined_indices(devices))


LARGE_RINGS = [
    *(("frames", "sebulba"), ("frames", "anakin"), ("vectors", "sebulba")),
    pytest.param("vectors", "anakin", marks=pytest.mark.slow),
]


@functools.cache
def compile_large(seen, placement):
    """An update of a ring that outweighs all else, and the ring's bytes on a device."""
    overrides = {**RING, "replay__batches": {"frames": 40, "vectors": 1000}[seen], "network__hidden_sizes": (8,)}
    if placement == "anakin":
        env_id = {"frames": "Breakout-MinAtar", "vectors": "CartPole-v1"}[seen]
        config = anakin_config(env_id, **overrides, topology__updates_per_call=3)
    else:
        config = make_config({"frames": "Breakout-v5", "vectors": "Catch-v0"}[seen], **overrides)
    assembly = assemble(config, jax.devices()[:1])
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(assembly.state_shape.replay))
    return assembly.compile().update, size, assembly


@pytest.mark.parametrize(("seen", "placement"), LARGE_RINGS)
def test_the_ring_is_written_in_place(seen, placement):
    compiled, size, _ = compile_large(seen, placement)
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < size / 2
    assert memory.alias_size_in_bytes >= size


def test_bytes_are_said_before_anything_is_compiled():
    _, size, assembly = compile_large("frames", "sebulba")
    said = describe_replay(assembly.config, assembly.state_shape)
    assert said.startswith("40 batches, each learned from 2 times: ")
    assert f"{size / 2**20:.2f} MiB on each learner device, {size / 2**20:.2f} MiB in the newest checkpoint" in said
    assert describe_replay(make_config(), Learner(*rollouts_come_from()[:1], mesh_of(1)).state_shape) == ""


def test_a_run_counts_what_it_learns():
    _, rows = run(make_config(**RING))
    assert [row["replay/size"] for row in rows] == [1, 2, 3, 3, 3, 3, 3, 3, 3, 3]
    assert [row["replay/ratio"] for row in rows] == [1, 1, *[2] * 8]
    assert all(0 <= row["replay/age"] <= 2 for row in rows)
