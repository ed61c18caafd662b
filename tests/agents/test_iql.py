"""IQL: expectiles, weights of cloning and targets, against loops written from the paper."""

import dataclasses
import functools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.agents.iql import AgentConfig, iql_policy_loss, make_agent
from podrl.agents.parts.interface import Batch, Partition
from podrl.agents.parts.recorded import REBALANCED, UNIFORM
from podrl.config.config import ConfigError, NetworkConfig
from podrl.config.optimizer import OptimizerConfig
from podrl.networks.available import make_networks
from podrl.networks.interface import StateValueNetwork
from podrl.ops.gaussian import MIN_SCALE, bound_mean, make_gaussian
from tests.agents.test_impala import networks_of
from tests.agents.test_sac import SIZE, SPEC, moved, paper_values, plain, random_sample, toy_networks

STILL = plain(1e-12)  # Steps so small that float32 parameters of size one stay as they are.
PROPORTIONAL = dataclasses.replace(plain(0.01), epsilon=1.0)  # Adam's first step would be of one length.


def iql_networks():
    """Those of SAC's toy, with a Gaussian around a bounded mean, and a linear value of states."""
    toy = toy_networks()
    gaussian = bound_mean(make_gaussian(SIZE, squash=False, initial_scale=0.7))
    numbers = np.random.default_rng(8).normal(size=SIZE).astype(np.float32)

    def rows(params, trajectory, chosen):
        seen = jnp.take_along_axis(jnp.asarray(trajectory.observation), chosen[..., None], 0)
        return seen @ params["state_value"]["slopes"]

    value = StateValueNetwork(init=lambda key: {"state_value": {"slopes": jnp.asarray(numbers)}}, rows=rows)
    return dataclasses.replace(toy, policy=dataclasses.replace(toy.policy, policy=gaussian), state_value=value)


def asked(networks):
    return networks_of(
        policy=lambda **_: networks.policy, twin_q=lambda: networks.critic, state_value=lambda: networks.state_value
    )


@functools.cache
def make_learn(optimizer=STILL, critic_optimizer=STILL, value_optimizer=STILL, micro_batches=1):
    """The first state, with targets of their own, and how it learns, compiled once for each kind of batch."""
    config = AgentConfig(
        discount=0.9,
        target_rate=0.25,
        expectile=0.8,
        beta=2.0,
        max_weight=4.0,
        optimizer=optimizer,
        critic_optimizer=critic_optimizer,
        value_optimizer=value_optimizer,
    )
    agent = make_agent(
        config,
        networks=asked(iql_networks()),
        spec=SPEC,
        num_envs=4,
        num_updates=10,
        partition=Partition(micro_batches=micro_batches),
    )
    state = agent.init(jax.random.key(0))
    target = {"critic": moved(state.params["critic"])}
    return dataclasses.replace(state, extra={**state.extra, "target": target}), jax.jit(agent.learn)


def both(uniform, rebalanced):
    return Batch(recorded={UNIFORM: uniform, REBALANCED: rebalanced})


class Paper:
    """The losses of single rows, in float64."""

    def __init__(self, state):
        self.state, self.params = state, jax.tree.map(np.float64, state.params)
        self.target = jax.tree.map(np.float64, state.extra["target"]["critic"])

    def value(self, observation):
        return observation @ self.params["state_value"]["slopes"]

    def slow_value(self, observation, action):
        return paper_values(self.target, observation, np.clip(action, -1, 1)).min()

    def expectile_loss(self, observation, action):
        difference = self.slow_value(observation, action) - self.value(observation)
        return (0.8 if difference > 0 else 0.2) * difference**2

    def log_prob(self, observation, action):
        output = observation @ self.params["policy"]["weights"] + self.params["policy"]["bias"]
        mean, raw = np.tanh(output[:SIZE]), output[SIZE:]
        scale = np.log1p(np.exp(raw + np.log(np.expm1(0.7 - MIN_SCALE)))) + MIN_SCALE
        return np.sum(-0.5 * ((action - mean) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi))

    def policy_loss(self, observation, action):
        advantage = self.slow_value(observation, action) - self.value(observation)
        return -min(np.exp(2 * advantage), 4.0) * self.log_prob(observation, action)


def mean_over(sample, loss):
    """The weighted mean of (observation, action, next observation, reward, discount) -> loss over real transitions."""
    trajectory, losses = sample.trajectory, []
    for t, b in np.argwhere(trajectory.is_transition):
        row = (trajectory.observation[t, b], trajectory.action[t, b], trajectory.observation[t + 1, b])
        consequence = (float(trajectory.reward[t, b]), float(trajectory.discount[t, b]))
        losses.append(sample.weight[b] * loss(*row, *consequence))
    return np.mean(losses)


def reaching(sample, reach):
    """The sample with actions that leave the range, if `reach` is above 1."""
    return dataclasses.replace(
        sample, trajectory=dataclasses.replace(sample.trajectory, action=reach * sample.trajectory.action)
    )


@pytest.mark.parametrize("reach", [1.0, 3.0])
def test_each_loss_is_the_papers_of_its_own_stream_with_its_weights(reach):
    """State values and critics are of the uniform stream, the policy is of the rebalanced one.

    Values are those of the actions as the environment clips them, likelihoods those of the actions as they were chosen.
    """
    uniform, rebalanced = (reaching(random_sample(seed), reach) for seed in (1, 2))
    state, learn = make_learn()
    _, metrics, _ = learn(state, both(uniform, rebalanced))
    paper = Paper(state)

    def critic_loss(observation, action, following, reward, discount):
        target, clipped = reward + 0.9 * discount * paper.value(following), np.clip(action, -1, 1)
        return 0.5 * np.sum((target - paper_values(paper.params["critic"], observation, clipped)) ** 2)

    found = {name: float(metrics[f"loss/{name}"]) for name in ("state_value", "policy", "value", "total")}
    value = mean_over(uniform, lambda observation, action, *_: paper.expectile_loss(observation, action))
    policy = mean_over(rebalanced, lambda observation, action, *_: paper.policy_loss(observation, action))
    assert found["state_value"] == pytest.approx(value, rel=1e-4)
    assert found["policy"] == pytest.approx(policy, rel=1e-4)
    assert found["value"] == pytest.approx(mean_over(uniform, critic_loss), rel=1e-4)
    assert found["total"] == pytest.approx(found["state_value"] + found["policy"] + found["value"], rel=1e-5)
    weights = float(metrics["policy/weight"])
    assert 0 < weights < 4


def test_weights_are_clipped_and_never_overflow():
    state, _ = make_learn()
    trajectory, networks = random_sample().trajectory, iql_networks()
    losses, told = iql_policy_loss(
        AgentConfig(beta=1e6, max_weight=100.0), networks, state.params, state.extra["target"], trajectory
    )
    better = np.asarray(told["value/advantage"]) > 0
    assert better.any()
    np.testing.assert_allclose(told["policy/weight"], np.where(better, 100.0, 0.0), rtol=1e-5)
    assert np.isfinite(losses).all()
    slopes = jax.grad(lambda params: iql_policy_loss(AgentConfig(), networks, params, params, trajectory)[0].sum())(
        state.params
    )
    assert not any(np.any(x) for x in jax.tree.leaves((slopes["critic"], slopes["state_value"])))


def test_each_part_learns_from_its_stream_alone():
    one, other, third = (random_sample(seed) for seed in (1, 2, 3))

    def learned(uniform, rebalanced, **moving):
        state, learn = make_learn(**moving)
        return learn(state, both(uniform, rebalanced))[0].params

    critics = {"critic_optimizer": PROPORTIONAL, "value_optimizer": PROPORTIONAL}
    for part in ("critic", "state_value"):
        first, same, differs = (
            learned(*streams, **critics)[part]["slopes"] for streams in ((one, other), (one, third), (third, other))
        )
        np.testing.assert_array_equal(first, same)
        assert np.any(first != differs)
    policies = [
        learned(*streams, optimizer=PROPORTIONAL)["policy"]["bias"]
        for streams in ((one, other), (third, other), (one, third))
    ]
    np.testing.assert_array_equal(policies[0], policies[1])
    assert np.any(policies[0] != policies[2])


def test_targets_go_a_share_of_the_way_and_bootstrap_from_the_new_state_values():
    state, learn = make_learn(critic_optimizer=PROPORTIONAL, value_optimizer=PROPORTIONAL)
    sample = random_sample(1)
    after, metrics, _ = learn(state, Batch(recorded={UNIFORM: sample}))
    jax.tree.map(
        lambda found, old, new: np.testing.assert_allclose(found, 0.75 * old + 0.25 * new, rtol=1e-5),
        *(after.extra["target"]["critic"], state.extra["target"]["critic"], after.params["critic"]),
    )
    new = Paper(after)

    def critic_loss(observation, action, following, reward, discount):
        target = reward + 0.9 * discount * new.value(following)
        return 0.5 * np.sum((target - paper_values(state.params["critic"], observation, action)) ** 2)

    assert float(metrics["loss/value"]) == pytest.approx(mean_over(sample, critic_loss), rel=1e-4)


def test_micro_batches_learn_the_same():
    moving = {f"{name}optimizer": PROPORTIONAL for name in ("", "critic_", "value_")}
    batch, results = both(random_sample(1), random_sample(2)), []
    for num in (1, 4):
        state, learn = make_learn(**moving, micro_batches=num)
        results.append(learn(state, batch)[0].params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), *results)


def test_networks_with_a_memory_are_refused_in_one_line():
    networks = make_networks(NetworkConfig(core="lstm"), SPEC)
    with pytest.raises(ConfigError, match=r"agent.name='iql' learns from single .* Use network.core=none"):
        make_agent(AgentConfig(), networks=networks, spec=SPEC, num_envs=4, num_updates=10)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ({"expectile": 1.0}, "agent.expectile=1.0 must lie in"),
        ({"value_optimizer": OptimizerConfig(learning_rate=-1.0)}, "agent.value_optimizer.learning_rate=-1.0 must"),
    ],
)
def test_values_out_of_range_are_refused(override, said):
    with pytest.raises(ConfigError, match=said):
        AgentConfig(**override)
