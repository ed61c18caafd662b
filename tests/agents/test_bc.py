"""Behavioural cloning: the likelihood of what was recorded, under every kind of policy and with a memory."""

import dataclasses

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.actions import ContinuousActions, DiscreteActions, HybridActions, MultiDiscreteActions
from podrl.agents.bc import AgentConfig, make_agent
from podrl.agents.parts.interface import Batch, Partition
from podrl.agents.parts.recorded import REBALANCED, UNIFORM
from podrl.config.config import ConfigError, NetworkConfig
from podrl.config.optimizer import OptimizerConfig
from podrl.networks.available import make_networks
from podrl.types import EnvSpec, Sample, Timestep, Trajectory
from tests.short_runs import random_recorded

VECTOR = jax.ShapeDtypeStruct((4,), jnp.float32)
KINDS = {
    "one choice": DiscreteActions(3),
    "choices": MultiDiscreteActions((2, 3)),
    "numbers": ContinuousActions(2),
    "both": HybridActions((2, 3), 2),
}


def make(actions=KINDS["one choice"], network=None, partition=None, **config):
    spec = EnvSpec(id="t", observation=VECTOR, actions=actions)
    networks = make_networks(network or NetworkConfig(hidden_sizes=(16,)), spec)
    optimizer = OptimizerConfig(learning_rate=config.pop("learning_rate", 3e-3), learning_rate_decay=False)
    agent = make_agent(
        AgentConfig(optimizer=optimizer, **config),
        networks=networks,
        spec=spec,
        num_envs=4,
        num_updates=10,
        partition=partition or Partition(),
    )
    return agent, spec, networks.policy()


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_weighted_mean_of_how_unlikely_the_recorded_actions_are(kind):
    """It clones the rebalanced stream, if there are two; rows behind an episode's end are no actions."""
    agent, spec, network = make(KINDS[kind], NetworkConfig(hidden_sizes=(16,), initial_scale=0.5), length=3)
    state, sample = agent.init(jax.random.key(0)), random_recorded(agent, spec, 3, 8)
    state = dataclasses.replace(state, params=jax.tree.map(lambda x: x + 0.1, state.params))
    other = random_recorded(agent, spec, 3, 8, seed=5)
    _, metrics, priority = jax.jit(agent.learn)(state, Batch(recorded={UNIFORM: other, REBALANCED: sample}))
    total, rows, trajectory = 0.0, 0, jax.device_get(sample.trajectory)
    for t, b in np.argwhere(trajectory.is_transition):
        timestep = Timestep(
            observation=trajectory.observation[t, b : b + 1],
            reward=np.zeros(1, np.float32),
            discount=np.ones(1, np.float32),
            first=np.zeros(1, bool),
        )
        output, _ = network.step(state.params, timestep, network.initial_carry(1))
        total -= float(sample.weight[b]) * float(
            network.distribution.log_prob(output, trajectory.action[t, b][None])[0]
        )
        rows += 1
    assert 8 < rows < 24
    assert float(metrics["loss/total"]) == pytest.approx(total / rows, rel=1e-4)
    assert priority is None


def test_micro_batches_learn_the_same():
    results = []
    for num in (1, 4):
        agent, spec, _ = make(length=3, partition=Partition(micro_batches=num))
        sample = random_recorded(agent, spec, 3, 8)
        after, metrics, _ = jax.jit(agent.learn)(agent.init(jax.random.key(0)), Batch(recorded={UNIFORM: sample}))
        results.append((metrics, after.opt_state))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), *results)


def sample_of(observation, first, action, agent):
    """Recorded rows [T+1, B], without rewards, and nothing before them."""
    length, batch = first.shape[0] - 1, first.shape[1]
    trajectory = Trajectory(
        observation=observation.astype(np.float32),
        first=first,
        action=action,
        reward=np.zeros((length, batch), np.float32),
        discount=np.ones((length, batch), np.float32),
        behaviour=(),
        carry=agent.initial_carry(np.arange(batch, dtype=np.uint32)),
        opening_reward=np.zeros(batch, np.float32),
        env_index=np.arange(batch, dtype=np.uint32),
        params_version=(),
    )
    return Sample(trajectory=trajectory, weight=np.ones(batch, np.float32))


def clone(agent, draw, calls):
    """Learns from a stream of samples, each (number) -> sample."""
    learn, state = jax.jit(agent.learn), agent.init(jax.random.key(0))
    for call in range(calls):
        state, metrics, _ = learn(state, Batch(recorded={UNIFORM: draw(call)}))
    return state, metrics


def test_a_deterministic_policy_is_recovered():
    agent, _, _ = make(learning_rate=0.01)
    weights = np.random.default_rng(7).normal(size=(4, 3))

    def draw(seed, batch=128):
        observation = np.random.default_rng(seed).normal(size=(2, batch, 4))
        action = np.argmax(observation[:1] @ weights, axis=-1).astype(np.int32)
        return sample_of(observation, np.zeros((2, batch), bool), action, agent)

    state, _ = clone(agent, draw, 300)
    test = draw(10_000, 500).trajectory
    row = np.zeros(500, np.float32)
    timestep = Timestep(observation=test.observation[0], reward=row, discount=row + 1, first=row > 0)
    keys = jax.random.split(jax.random.key(0), 500)
    action, _ = agent.act_greedy(agent.actor_params(state), timestep, test.carry, keys)
    assert np.mean(np.asarray(action) == test.action[0]) > 0.93


def test_a_memory_is_learned_from_sequences():
    """What to do in all rows is shown in the first row of an episode alone."""
    network = NetworkConfig(hidden_sizes=(16,), core="lstm", core_size=16)
    agent, _, _ = make(DiscreteActions(2), network, length=4, learning_rate=0.01)

    def draw(seed, batch=64):
        told = np.random.default_rng(seed).integers(0, 2, batch)
        observation = np.zeros((5, batch, 4))
        observation[0, np.arange(batch), told] = 1
        first = np.zeros((5, batch), bool)
        first[0] = True
        return sample_of(observation, first, np.broadcast_to(told, (4, batch)).astype(np.int32), agent)

    _, metrics = clone(agent, draw, 150)
    assert float(metrics["policy/log_prob"]) > -0.1  # Without a memory it is log(1/2) in three of four rows.


def test_values_out_of_range_are_refused():
    with pytest.raises(ConfigError, match=r"agent.length=0 must lie in \[1, 1e6\]"):
        AgentConfig(length=0)
    with pytest.raises(ConfigError, match=r"agent.optimizer.learning_rate=-1.0 must"):
        AgentConfig(optimizer=OptimizerConfig(learning_rate=-1.0))
