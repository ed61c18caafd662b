"""Auxiliary losses of imagined latents: distances by hand, masks by a loop, and what they do on a small ring."""

import dataclasses
import functools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.actions import DiscreteActions
from podrl.agents.parts.auxiliary import NO_AUXILIARY
from podrl.agents.parts.interface import Batch
from podrl.agents.parts.value_consistency import (
    imagine,
    make_auxiliary,
    steps_to_compare,
    value_distance,
    windows,
)
from podrl.agents.rainbow import AgentConfig, make_agent
from podrl.config.auxiliary import AuxiliaryConfig
from podrl.config.config import ConfigError, NetworkConfig
from podrl.config.optimizer import OptimizerConfig
from podrl.networks.available import make_networks
from podrl.networks.interface import AtomOutput
from podrl.types import EnvSpec, Sample
from tests.agents.test_r2d2 import random_sample

PLACES, LENGTH, BATCH = 6, 5, 32
SPEC = EnvSpec(id="ring", observation=jax.ShapeDtypeStruct((PLACES,), jnp.float32), actions=DiscreteActions(2))
NETWORKS = make_networks(NetworkConfig(hidden_sizes=(32,)), SPEC)


def agent_config(noisy=False, **auxiliary):
    return AgentConfig(
        optimizer=OptimizerConfig(name="adam", learning_rate=3e-3, learning_rate_decay=False, max_grad_norm=10.0),
        num_atoms=11,
        min_value=0.0,
        max_value=5.0,
        discount=0.8,
        noisy=noisy,
        random_share=0.0 if noisy else 0.1,
        target_period=20,
        auxiliary=AuxiliaryConfig(**({"steps": 3, **auxiliary} if auxiliary else {})),
    )


def walk(agent, seed, length=LENGTH, batch=BATCH):
    """A random walk around a ring of places; the step to the first place pays. Nothing ends."""
    rng = np.random.default_rng(seed)
    action, place = rng.integers(0, 2, (length, batch)), rng.integers(0, PLACES, batch)
    places = np.concatenate([place[None], place + np.cumsum(2 * action - 1, axis=0)]) % PLACES
    sample = random_sample(seed, length, batch)
    trajectory = dataclasses.replace(
        sample.trajectory,
        observation=np.eye(PLACES, dtype=np.float32)[places],
        first=np.zeros((length + 1, batch), bool),
        action=action.astype(np.int32),
        reward=(places[1:] == 0).astype(np.float32),
        discount=np.ones((length, batch), np.float32),
        carry=agent.initial_carry(np.arange(batch, dtype=np.uint32)),
    )
    return Sample(trajectory=trajectory, weight=np.ones(batch, np.float32))


@functools.cache
def gap_after_training(steps=300, **auxiliary):
    """Of transitions that were not learned from."""
    config = agent_config(**auxiliary)
    agent = make_agent(config, networks=NETWORKS, spec=SPEC, num_envs=BATCH, num_updates=steps)
    learn = jax.jit(agent.learn)
    state = jax.jit(agent.init)(jax.random.key(0))
    for step in range(steps):
        state, _, _ = learn(state, Batch(rollouts=walk(agent, step)))
        state = dataclasses.replace(state, learner_step=state.learner_step + 1)
    _, metrics, _ = learn(state, Batch(rollouts=walk(agent, 10**6)))
    return jax.device_get(metrics)


@pytest.mark.parametrize("distance", ["kl", pytest.param("ce", marks=pytest.mark.slow), "mse"])
def test_imagined_values_come_to_be_the_observed_ones(distance):
    """At most half as far off as where the loss has no weight, with values that are learned as well."""
    without, found = gap_after_training(kind="value", weight=0.0), gap_after_training(kind="value", distance=distance)
    assert found["value/consistency_gap"] <= without["value/consistency_gap"] / 2
    np.testing.assert_allclose(found["value/taken"], found["value/target"], atol=0.2)
    assert 0.5 < found["value/size"] < 3  # Not all values are the same: the first place's are near 2.8.


@pytest.mark.slow
def test_features_are_foreseen():
    metrics = gap_after_training(kind="features")
    assert metrics["loss/auxiliary"] < 0.1 * 3  # Of at most 4 at each of three steps.
    assert metrics["value/consistency_gap"] < gap_after_training(kind="value", weight=0.0)["value/consistency_gap"]


def output(rng, *shape, allowed=None):
    logits = rng.normal(size=(*shape, 2, 5)).astype(np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    q_values = probabilities @ np.arange(5, dtype=np.float32)
    masked = q_values if allowed is None else np.where(allowed, q_values, -np.inf)
    return AtomOutput(q_values=jnp.asarray(masked), logits=jnp.asarray(logits), latent=jnp.zeros(shape)), probabilities


def test_distances_are_means_over_what_is_allowed():
    rng = np.random.default_rng(0)
    allowed = np.asarray([[True, True], [False, True]])
    (imagined, p), (observed, q) = output(rng, 2), output(rng, 2, allowed=allowed)
    kl, ce = (q * np.log(q / p)).sum(axis=-1), -(q * np.log(p)).sum(axis=-1)
    difference = np.where(allowed, np.asarray(imagined.q_values) - np.asarray(observed.q_values), 0)
    by_hand = {"kl": kl, "ce": ce, "mse": (difference / 2.5) ** 2}
    for distance, each in by_hand.items():
        config = AuxiliaryConfig(kind="value", distance=distance)
        expected = [(each[0, 0] + each[0, 1]) / 2, each[1, 1]]
        np.testing.assert_allclose(value_distance(config, imagined, observed, jnp.float32(2.5)), expected, rtol=1e-4)


def test_steps_are_compared_within_an_episode_and_not_with_its_end():
    config, shape = AuxiliaryConfig(kind="value", steps=4), agent_config(kind="value", steps=4).sequences
    shape = dataclasses.replace(shape, length=3)
    for seed in range(3):
        trajectory = random_sample(seed, length=7, batch=5).trajectory
        found = np.asarray(steps_to_compare(config, shape, jax.tree.map(jnp.asarray, trajectory)))
        rows = found.shape[2]
        assert found.shape == (4, 5, rows)
        for k, b, t in np.ndindex(4, 5, rows):
            path = range(t, t + k + 1)
            known = all(s < 7 and not trajectory.first[s + 1, b] and trajectory.discount[s, b] > 0 for s in path)
            assert found[k, b, t] == known


def test_windows_are_the_rows_ahead():
    x = np.arange(5)[:, None] + np.asarray([[0, 10]])
    found = np.asarray(windows(jnp.asarray(x), 3, 4))
    assert found.shape == (4, 2, 3)
    for k, b, t in np.ndindex(4, 2, 3):
        assert found[k, b, t] == (x[t + k, b] if t + k < 5 else 0)


def test_latents_are_followed_along_the_actions_and_compared_with_the_rows_ahead():
    config = agent_config(kind="value")
    agent = make_agent(config, networks=NETWORKS, spec=SPEC, num_envs=BATCH, num_updates=1)
    network, sample = NETWORKS.atoms(config.values), walk(agent, 0, batch=4)
    params = jax.jit(network.init)(jax.random.key(0))
    found = jax.jit(lambda p, t: imagine(config.auxiliary, network, config.sequences, p, t))(params, sample.trajectory)
    whole = jax.jit(network.unroll)(params, sample.trajectory)[0]
    num = found.latent.shape[2]
    for t in range(num):
        latent = whole.latent[t]
        for k in range(3):
            latent = network.transition(params, latent, sample.trajectory.action[t + k])
            np.testing.assert_allclose(found.latent[k, :, t], latent, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(found.observed.logits[k, :, t], whole.logits[t + k + 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["features", "value"])
def test_no_gradient_flows_through_what_was_observed_and_nothing_counts_behind_an_end(kind):
    config = agent_config(kind=kind)
    agent = make_agent(config, networks=NETWORKS, spec=SPEC, num_envs=BATCH, num_updates=1)
    network, sample = NETWORKS.atoms(config.values), walk(agent, 0, length=3, batch=4)
    params = jax.jit(network.init)(jax.random.key(0))
    auxiliary = make_auxiliary(config.auxiliary, network, config.sequences)

    def loss(observation, discount):
        trajectory = dataclasses.replace(sample.trajectory, observation=observation, discount=discount)
        own = dataclasses.replace(sample, trajectory=trajectory)
        return auxiliary.loss(params, auxiliary.init(), own, auxiliary.count(trajectory))[0]

    value_and_slope = jax.jit(jax.value_and_grad(loss))
    observation, discount = (jnp.asarray(getattr(sample.trajectory, name)) for name in ("observation", "discount"))
    total, slope = value_and_slope(observation, discount)
    assert float(jnp.abs(slope[0]).max()) > 0
    np.testing.assert_array_equal(slope[1:], 0)
    ended = discount.at[1].set(0.0)
    before, after = value_and_slope(observation, ended)[0], value_and_slope(observation.at[2:].add(1.0), ended)[0]
    assert before == after
    assert before < total


def test_the_running_size_moves_where_something_was_compared():
    config = AuxiliaryConfig(kind="value", size_rate=0.25)
    auxiliary = make_auxiliary(config, NETWORKS.atoms(agent_config(kind="value").values), agent_config().sequences)
    state, metrics = auxiliary.init(), {"value/size": jnp.float32(3)}
    assert float(auxiliary.move(state, metrics, {"steps": jnp.float32(5)})["value_size"]) == 1.5
    assert float(auxiliary.move(state, metrics, {"steps": jnp.float32(0)})["value_size"]) == 1.0


def test_without_one_there_is_no_model_and_no_loss():
    config = agent_config()
    assert make_auxiliary(config.auxiliary, None, config.sequences) is NO_AUXILIARY
    params = jax.eval_shape(NETWORKS.atoms(config.values).init, jax.random.key(0))
    assert set(params) == {"encoder", "head"}


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("none", "weight", 2.0),
        ("none", "steps", 3),
        ("features", "distance", "mse"),
        ("features", "size_rate", 0.1),
        ("value", "projection", 8),
    ],
)
def test_a_key_without_an_effect_is_refused(kind, key, value):
    with pytest.raises(
        ConfigError, match=rf"agent\.auxiliary\.{key}=.* has no effect with agent\.auxiliary\.kind='{kind}'"
    ):
        AgentConfig(auxiliary=AuxiliaryConfig(kind=kind, **{key: value}))


def test_values_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"agent\.auxiliary\.kind='vcr' is not known"):
        agent_config(kind="vcr")
    with pytest.raises(ConfigError, match=r"agent.auxiliary.steps=0 must lie in \[1, 100\]"):
        agent_config(steps=0)
