"""Running statistics of observations and returns: right, equal on all devices, saved, and used by whoever acts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from podrl import saved_run, train
from podrl.agents.parts.interface import Fresh
from podrl.agents.parts.normalization import (
    MAX_NORMALIZED,
    discounted_past,
    normalize,
    normalize_observations,
    normalize_rewards,
)
from podrl.agents.parts.updating import make_init_with_replay, make_update
from podrl.config.config import ConfigError
from podrl.learning.learner import Learner
from podrl.learning.replay import make_replay
from podrl.ops.statistics import Statistics, initial_statistics, update_statistics
from podrl.runs.checkpoint import Checkpointer
from podrl.runs.checkpoint_arrays import read_params, restore_actor
from podrl.types import Counters, Snapshot, Timestep
from tests.experience.test_unroll import unroll
from tests.learning.test_learner import assert_params_close, learner_mesh
from tests.learning.test_learner import train as learn
from tests.short_runs import make_agent, make_agent_update, make_config, random_trajectory, scripted_config

BOTH = {"network__normalize_observations": True, "network__normalize_rewards": True}
PAIR = jax.ShapeDtypeStruct((2,), jnp.float32)


def batches(num, rows=7, envs=5):
    """Of two columns of very different scales, and which rows count."""
    rng = np.random.default_rng(0)
    for _ in range(num):
        x = rng.normal(size=(rows, envs, 2)) * [1e-3, 40.0] + [5.0, -3000.0]
        yield x.astype(np.float32), rng.random((rows, envs)) < 0.8


def test_statistics_are_those_of_all_rows_that_count():
    statistics, kept = initial_statistics(PAIR), []
    for x, mask in batches(30):
        kept.append(x[mask])
        poisoned = np.where(mask[..., None], x, np.nan)
        statistics = update_statistics(statistics, poisoned, jnp.asarray(mask))
    rows = np.concatenate(kept).astype(np.float64)
    assert statistics.count == len(rows)
    np.testing.assert_allclose(statistics.mean, rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(statistics.variance, rows.var(0), rtol=2e-3)
    normalized = normalize(statistics, jnp.asarray(rows, jnp.float32))
    np.testing.assert_allclose(normalized, (rows - rows.mean(0)) / rows.std(0), atol=0.05)


def test_before_the_first_row_nothing_is_changed_but_what_is_clipped():
    statistics = initial_statistics(PAIR)
    empty = update_statistics(statistics, jnp.full((3, 4, 2), jnp.nan), jnp.zeros((3, 4), bool))
    jax.tree.map(np.testing.assert_array_equal, empty, statistics)
    np.testing.assert_allclose(normalize(empty, jnp.array([-3.0, 300.0])), [-3.0, MAX_NORMALIZED])


def test_a_count_that_is_full_leaves_the_rest_moving():
    statistics = dataclasses.replace(initial_statistics(PAIR), count=jnp.float32(2.0**60))
    moved = update_statistics(statistics, jnp.full((3, 4, 2), 1e15), jnp.ones((3, 4), bool))
    assert moved.count == 2.0**60
    assert (moved.mean > 0).all()
    assert (moved.variance > 1).all()


def test_an_agent_acts_and_learns_on_normalised_observations():
    agent, spec = make_agent(make_config())
    wrapped = normalize_observations(agent, spec)
    seen = 3 * random_trajectory(agent, spec, 6, 8, seed=1).observation + 1
    statistics = update_statistics(initial_statistics(spec.observation), seen, jnp.ones((7, 8), bool))
    bare = agent.init(jax.random.key(0))
    state = dataclasses.replace(bare, extra={"agent": (), "observations": statistics})
    trajectory = random_trajectory(agent, spec, 6, 8, seed=2)
    normalised = dataclasses.replace(trajectory, observation=normalize(statistics, trajectory.observation))

    after, _ = jax.jit(make_agent_update(wrapped))(state, trajectory)
    expected, _ = jax.jit(make_agent_update(agent))(bare, normalised)
    # One program rounds as the two do only where the compiler fuses them alike.
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-8), after.params, expected.params)
    assert not trajectory.is_transition.all()
    acted_on = np.asarray(trajectory.observation[:-1])[np.asarray(trajectory.is_transition)]
    rows = np.concatenate([np.reshape(seen, (-1, 50)), acted_on])
    assert after.extra["observations"].count == len(rows)
    np.testing.assert_allclose(after.extra["observations"].mean, rows.mean(0), atol=1e-5)
    np.testing.assert_allclose(after.extra["observations"].variance, rows.var(0), rtol=1e-4)

    params, keys, zeros = wrapped.actor_params(state), jax.random.split(jax.random.key(1), 8), jnp.zeros(8)
    raw, inner = (
        Timestep(observation=x.observation[0], reward=zeros, discount=zeros + 1, first=zeros > 0)
        for x in (trajectory, normalised)
    )
    carry = agent.initial_carry(np.arange(8, dtype=np.uint32))
    found = wrapped.act(params, raw, carry, keys), wrapped.act_greedy(params, raw, carry, keys)
    wanted = agent.act(state.params, inner, carry, keys), agent.act_greedy(state.params, inner, carry, keys)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_discounted_past_starts_anew_with_every_episode_and_goes_on_from_unroll_to_unroll():
    config = scripted_config({"episode_lengths": (3, 6)}, network__normalize_rewards=True, agent__discount=0.5)
    rollouts, _ = unroll(config, 3, [0, 1], length=4)
    found = np.concatenate([discounted_past(r.carry["return"], r, 0.5) for r in rollouts])
    first = np.concatenate([r.first[1:] for r in rollouts])
    reward = np.concatenate([r.reward for r in rollouts])
    expected, past = [], np.zeros(2)
    for opens, earned in zip(first, reward, strict=True):
        past = np.where(opens, 0.0, earned + 0.5 * past)
        expected.append(past)
    np.testing.assert_allclose(found, expected)
    assert [found[2, 0], found[3, 0], found[4, 0]] == [3 + 0.5 * (2 + 0.5 * 1), 0, 1]  # The end, a reset, and a start.


def test_rewards_are_divided_by_the_deviation_of_returns():
    agent, spec = make_agent(make_config())
    wrapped = normalize_rewards(agent, 0.9)
    state, trajectory = wrapped.init(jax.random.key(0)), random_trajectory(wrapped, spec, 6, 8)
    trajectory = dataclasses.replace(trajectory, reward=trajectory.reward * 300)
    returns = discounted_past(trajectory.carry["return"], trajectory, 0.9)
    deviation = np.std(np.asarray(returns)[np.asarray(trajectory.is_transition)])
    after, metrics = jax.jit(make_agent_update(wrapped))(state, trajectory)
    np.testing.assert_allclose(metrics["value/return_deviation"], deviation, rtol=1e-5)
    scaled = np.clip(trajectory.reward / deviation, -MAX_NORMALIZED, MAX_NORMALIZED)
    assert np.abs(scaled).max() < MAX_NORMALIZED
    learned = dataclasses.replace(trajectory, reward=scaled, carry=trajectory.carry["agent"])
    expected, _ = jax.jit(make_agent_update(agent))(dataclasses.replace(state, extra=()), learned)
    assert_params_close(after.params, expected.params, rtol=1e-6)


def test_a_reward_that_is_no_number_spoils_its_update_only():
    agent, spec = make_agent(make_config(network__normalize_rewards=True))
    good = random_trajectory(agent, spec, 6, 8)
    bad = dataclasses.replace(good, reward=good.reward.at[2, 3].set(jnp.nan))
    assert np.isfinite(discounted_past(bad.carry["return"], bad, 0.9)).all()
    _, metrics = jax.jit(make_agent_update(agent))(agent.init(jax.random.key(0)), bad)
    assert np.isnan(metrics["loss/total"])


@pytest.mark.parametrize("value", [jnp.inf, jnp.nan])
def test_an_observation_that_is_no_number_is_seen_and_its_update_can_be_skipped(value):
    """Clipped it would look like any other, and the statistics would keep it for good."""
    agent, spec = make_agent(make_config(network__normalize_observations=True))
    trajectory = random_trajectory(agent, spec, 6, 8)
    bad = dataclasses.replace(trajectory, observation=trajectory.observation.at[2, 3, 0].set(value))
    state, metrics = jax.jit(make_agent_update(agent, skips_nonfinite=True))(agent.init(jax.random.key(0)), bad)
    assert not np.isfinite(metrics["loss/total"])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((state.params, state.extra)))
    assert state.extra["observations"].count == 0


def test_a_skipped_update_leaves_the_statistics_of_good_observations_as_they_were_too():
    agent, spec = make_agent(make_config(network__normalize_observations=True))
    trajectory = random_trajectory(agent, spec, 6, 8)
    bad = dataclasses.replace(trajectory, reward=trajectory.reward.at[2, 3].set(jnp.nan))
    before = agent.init(jax.random.key(0))
    state, metrics = jax.jit(make_agent_update(agent, skips_nonfinite=True))(before, bad)
    assert metrics["grad/skipped"] == 1
    jax.tree.map(np.testing.assert_array_equal, state.extra, before.extra)


RINGS = {
    "batches": {"agent": "impact", "replay__batches": 3, "replay__uses": 2},
    "sequences": {
        **{"agent": "r2d2", "replay__capacity": 400, "replay__batch": 16, "replay__groups": 2, "replay__ratio": 0.5},
        **{"agent__starts": "rows", "agent__burn_in": 0, "agent__length": 1},
    },
}


def seen_by(agent, priority):
    """The agent with a `learn` that learns nothing and tells as metrics what it was given, beside `loss/total`."""

    def learn(state, batch):
        return state, {"loss/total": jnp.float32(0), "sample": batch.rollouts}, priority

    return dataclasses.replace(agent, learn=learn)


@pytest.mark.parametrize("kind", RINGS)
def test_the_ring_stays_raw_and_a_sample_is_normalised_by_the_newest_statistics(kind):
    """Each rollout has ten times the scale of the one before, so statistics of an earlier update would show."""
    config = make_config(**RINGS[kind])
    bare, spec = make_agent(config)
    spied = seen_by(bare, None if kind == "batches" else jnp.ones(16))
    agent = normalize_observations(normalize_rewards(spied, 0.9), spec)
    replay = make_replay(config, agent, spec, learner_mesh(1))
    draw = jax.jit(lambda ring, rollouts: replay.draw(replay.insert(ring, rollouts, jnp.bool_(True))))
    update, gather, scale = jax.jit(make_update(agent, replay)), jax.jit(replay.gather), jax.jit(normalize)
    state, inserted, ages = jax.jit(make_init_with_replay(agent, replay))(jax.random.key(0)), {}, []
    for number in range(6):
        rollouts = jax.device_get(random_trajectory(agent, spec, length=4, num_envs=8, seed=number))
        observation, reward = (np.float32(10**number) * x for x in (rollouts.observation, rollouts.reward))
        rollouts = dataclasses.replace(rollouts, observation=observation, reward=reward)
        for t, b in np.ndindex(4, 8):
            inserted[observation[t, b].tobytes()] = reward[t, b], number
        ring, draws = draw(state.replay, rollouts)
        before, (state, metrics) = state.extra, update(state, Fresh(rollouts=rollouts))
        places = [jax.tree.map(lambda x, k=k: x[k], draws.place) for k in np.flatnonzero(draws.used)]
        samples = jax.device_get([gather(ring, place) for place in places])
        for sample in samples:  # As it came.
            for t, b in np.argwhere(sample.trajectory.is_transition):
                came, when = inserted[sample.trajectory.observation[t, b].tobytes()]
                assert sample.trajectory.reward[t, b] == came
                ages.append(number - when)
        if samples:  # An update's metrics are means over its samples.
            seen = metrics["sample"].trajectory
            wanted = np.mean([scale(before["observations"], x.trajectory.observation) for x in samples], axis=0)
            np.testing.assert_allclose(seen.observation, wanted, rtol=1e-4, atol=1e-6)
            deviation = np.sqrt(state.extra["agent"]["returns"].variance)
            paid = [np.clip(x.trajectory.reward / deviation, -MAX_NORMALIZED, MAX_NORMALIZED) for x in samples]
            np.testing.assert_allclose(seen.reward, np.mean(paid, axis=0), rtol=1e-4, atol=1e-6)
        if samples and kind == "sequences":  # One sample an update.
            rows = scale(before["observations"], samples[0].before.observation)
            np.testing.assert_allclose(metrics["sample"].before.observation, rows, rtol=1e-5, atol=1e-6)
    assert sum(age > 0 for age in ages) > 10  # Whose own updates had other statistics.


def test_every_device_holds_the_same_statistics_whatever_their_number():
    config = make_config(**BOTH)
    params, _, _, state = learn(config, num_devices=8, num_updates=5)
    alone, _, _, expected = learn(config, num_devices=1, num_updates=5)
    assert_params_close(params, alone, rtol=1e-5)
    for found, wanted in zip(jax.tree.leaves(state.extra), jax.tree.leaves(expected.extra), strict=True):
        assert len(found.addressable_shards) == 8
        for shard in found.addressable_shards:
            np.testing.assert_allclose(shard.data, wanted, rtol=1e-5, atol=1e-6)


def test_a_saved_run_acts_with_the_statistics_of_its_checkpoint(tmp_path):
    one_each = {"topology__actor_devices_per_process": 1, "topology__learner_devices_per_process": 1}
    config = make_config(**BOTH, **one_each, total_env_steps=3 * 8 * 4, log__tensorboard=False)
    train.train(config, workdir=str(tmp_path))
    saved = saved_run.open_run(str(tmp_path), None, jax.devices()[0])
    statistics = saved.params["observations"]
    assert 0.8 * 3 * 8 * 4 < statistics.count < 3 * 8 * 4  # Of 10 rows in an episode and 1 that ends it.
    assert statistics.variance.max() > 0
    assert saved.params["agent"]["returns"].count == statistics.count
    exported = read_params(tmp_path, 3)
    np.testing.assert_array_equal(exported["observations/mean"], statistics.mean)
    assert exported["observations/variance"].shape == (50,)
    assert not [name for name in exported if "returns" in name]


def test_a_checkpoint_without_remainders_is_restored_with_zeros(tmp_path):
    agent, _ = make_agent(make_config(**BOTH))
    learner = Learner(agent, learner_mesh(2))
    state = learner.init(seed=3)

    def strip(node):
        whole = isinstance(node, Statistics)
        return {"count": node.count, "mean": node.mean, "variance": node.variance} if whole else node

    stripped = jax.tree.map(strip, state.extra, is_leaf=lambda node: isinstance(node, Statistics))
    assert len(jax.tree.leaves(stripped)) == len(jax.tree.leaves(state.extra)) // 2 > 0
    saved = dataclasses.replace(state, extra=stripped)
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        checkpointer.save(Snapshot(state=saved, counters=Counters(learner_steps=0), episodes={}))
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        restored = checkpointer.restore(learner.state_shape, 0).state
    actor, _ = restore_actor(tmp_path, learner.state_shape, 0)

    for extra in (restored.extra, actor.extra):
        returns, observations = extra["agent"]["returns"], extra["observations"]
        assert not any(x.any() for x in jax.tree.leaves((returns.remainders, observations.remainders)))
        np.testing.assert_array_equal(observations.mean, state.extra["observations"].mean)
        assert jax.tree.structure(extra) == jax.tree.structure(state.extra)
        jax.tree.map(lambda x, old: x.sharding == old.sharding or pytest.fail("sharding"), extra, state.extra)


def test_images_are_refused():
    with pytest.raises(ConfigError, match=r"network.normalize_observations=True needs .* env.id='Pong-v5' gives uint8"):
        make_agent(make_config("Pong-v5", network__normalize_observations=True))
