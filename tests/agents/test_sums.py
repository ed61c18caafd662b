"""The losses of whole unrolls, and their gradients, against sums written from the papers in float64.

The policy and the values are tables, so that the gradient has a closed form: of the log-probability of action a it is
onehot(a) - p, of the entropy H it is -p (log p + H).
"""

import dataclasses

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.agents import impala, ppo
from podrl.config.optimizer import OptimizerConfig
from podrl.types import Trajectory
from tests.agents.test_impala import NUM_ACTIONS, NUM_STATES, around, tabular_network
from tests.experience.test_unroll import unroll
from tests.short_runs import make_agent_update, scripted_config

SEEDS = range(3)


def random_case(seed, length=9, num_envs=4):
    """Tables, and an unroll with terminations, truncations and reset rows."""
    rng = np.random.default_rng(seed)
    params = {"policy": rng.normal(size=(NUM_STATES, NUM_ACTIONS)), "value": rng.normal(size=NUM_STATES)}
    shape = (length, num_envs)
    trajectory = Trajectory(
        observation=rng.integers(NUM_STATES, size=(length + 1, num_envs), dtype=np.int32),
        first=rng.random((length + 1, num_envs)) < 0.25,
        action=rng.integers(NUM_ACTIONS, size=shape, dtype=np.int32),
        reward=np.float32(rng.normal(size=shape)),
        discount=np.float32(rng.random(shape) > 0.2),
        behaviour={
            "policy": np.float32(rng.normal(size=(*shape, NUM_ACTIONS))),
            "value": np.float32(rng.normal(size=shape)),
        },
        carry=(),
        opening_reward=np.zeros(num_envs, np.float32),
        env_index=np.arange(num_envs, dtype=np.uint32),
        params_version=np.zeros(shape, np.int32),
    )
    return jax.tree.map(np.float32, params), trajectory


class Sums:
    """One unroll in float64, and a loss and its gradient that are added up row by row."""

    def __init__(self, params, trajectory, discount):
        self.table = {name: np.float64(x) for name, x in params.items()}
        self.states, self.actions = np.asarray(trajectory.observation), np.asarray(trajectory.action)
        self.rewards = np.float64(trajectory.reward)
        self.discounts = discount * np.float64(trajectory.discount)
        self.counts = ~np.asarray(trajectory.first)[1:]
        self.values = self.table["value"][self.states]
        self.log_p = log_softmax(self.table["policy"])
        ours = np.take_along_axis(self.log_p[self.states[:-1]], self.actions[..., None], axis=-1)[..., 0]
        theirs = log_softmax(np.float64(trajectory.behaviour["policy"]))
        self.rhos = np.exp(ours - np.take_along_axis(theirs, self.actions[..., None], axis=-1)[..., 0])
        self.loss, self.gradient = 0.0, {name: np.zeros_like(x) for name, x in self.table.items()}

    def rows(self):
        return np.argwhere(self.counts)

    def corrections(self, values, deltas, traces, t, b):
        """The sum over rows s >= t of traces t to s - 1 times delta s; a reset row ends it."""
        total, weight = 0.0, 1.0
        for s in range(t, len(self.rewards)):
            if not self.counts[s, b]:
                break
            delta = self.rewards[s, b] + self.discounts[s, b] * values[s + 1, b] - values[s, b]
            total += weight * deltas[s, b] * delta
            weight *= self.discounts[s, b] * traces[s, b]
        return total

    def add(self, t, b, loss, log_prob_slope, value_slope, entropy_cost):
        """One row: its loss without the entropy's, and the slopes in its log-probability and its value."""
        state, num = self.states[t, b], self.counts.sum()
        p, log_p = np.exp(self.log_p[state]), self.log_p[state]
        entropy = -np.sum(p * log_p)
        self.loss += (loss - entropy_cost * entropy) / num
        one_hot = np.arange(NUM_ACTIONS) == self.actions[t, b]
        self.gradient["policy"][state] += (log_prob_slope * (one_hot - p) + entropy_cost * p * (log_p + entropy)) / num
        self.gradient["value"][state] += value_slope / num


def log_softmax(logits):
    return logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))


def assert_same(sums, loss, gradient):
    np.testing.assert_allclose(loss, sums.loss, rtol=2e-5)
    for name, expected in sums.gradient.items():
        np.testing.assert_allclose(gradient[name], expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("options", [{}, {"lambda_": 0.7, "clip_rho": 1.5, "clip_pg_rho": 0.8}])
def test_the_loss_of_impala_is_the_papers_sum(seed, options):
    params, trajectory = random_case(seed)
    config = impala.AgentConfig(discount=0.9, value_cost=0.6, entropy_cost=0.03, **options)
    sums = Sums(params, trajectory, config.discount)
    clipped, traces = np.minimum(sums.rhos, config.clip_rho), config.lambda_ * np.minimum(sums.rhos, 1)
    targets = sums.values.copy()
    for t, b in sums.rows():
        targets[t, b] += sums.corrections(sums.values, clipped, traces, t, b)
    for t, b in sums.rows():
        advantage = sums.rewards[t, b] + sums.discounts[t, b] * targets[t + 1, b] - sums.values[t, b]
        advantage *= min(sums.rhos[t, b], config.clip_pg_rho)
        error = sums.values[t, b] - targets[t, b]
        log_prob = sums.log_p[sums.states[t, b], sums.actions[t, b]]
        loss = -advantage * log_prob + config.value_cost * error**2 / 2
        sums.add(t, b, loss, -advantage, config.value_cost * error, config.entropy_cost)

    def loss_of(params):
        return impala.impala_loss(config, tabular_network(), params, trajectory, jnp.sum(trajectory.is_transition))[0]

    assert_same(sums, *jax.jit(jax.value_and_grad(loss_of))(params))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("options", [{}, {"lambda_": 0.5, "clip": 0.4, "value_clip": 0.3}, {"recompute_values": True}])
def test_the_loss_of_ppo_is_the_papers_sum(seed, options):
    params, trajectory = random_case(seed)
    config = ppo.AgentConfig(discount=0.9, value_cost=0.6, entropy_cost=0.03, minibatches=1, **options)
    sums, ones = Sums(params, trajectory, config.discount), np.ones(trajectory.reward.shape)
    recorded = np.concatenate([np.float64(trajectory.behaviour["value"]), sums.values[-1:]])
    values = sums.values if config.recompute_values else recorded
    for t, b in sums.rows():
        advantage = sums.corrections(values, ones, config.lambda_ * ones, t, b)
        rho, target, value, before = sums.rhos[t, b], values[t, b] + advantage, sums.values[t, b], values[t, b]
        kept = np.clip(rho, 1 - config.clip, 1 + config.clip)
        policy, policy_slope = -rho * advantage, -rho * advantage
        if -kept * advantage > policy:
            policy, policy_slope = -kept * advantage, 0.0
        error, error_slope = (value - target) ** 2 / 2, value - target
        near = before + np.clip(value - before, -config.value_clip, config.value_clip)
        if config.value_clip and (near - target) ** 2 / 2 > error:
            error, error_slope = (near - target) ** 2 / 2, 0.0
        loss = policy + config.value_cost * error
        sums.add(t, b, loss, policy_slope, config.value_cost * error_slope, config.entropy_cost)

    def loss_of(params):
        experience = ppo.estimate_advantages(config, tabular_network(), before_update, trajectory)
        count = jnp.sum(trajectory.is_transition)
        return ppo.ppo_loss(config, tabular_network(), params, experience, count, config.clip)[0]

    before_update = params
    assert_same(sums, *jax.jit(jax.value_and_grad(loss_of))(params))


@pytest.mark.parametrize("truncate", [True, False])
@pytest.mark.parametrize("name", ["impala", "ppo"])
def test_the_learned_value_looks_beyond_a_time_limit_and_not_beyond_a_termination(name, truncate):
    """Each step pays 1, and an episode ends after 4; unrolls of 3 divide neither the 4 nor the 5 rows of an episode.

    The final observation is that of the first step, as in a task that goes on: its value is learned.
    """
    discount, trajectory = 0.9, episodes_of_a_cycle(truncate)
    config = {
        "impala": impala.AgentConfig(
            discount=discount,
            value_cost=1.0,
            optimizer=OptimizerConfig(name="rmsprop", learning_rate=0.05, max_grad_norm=1e3),
        ),
        "ppo": ppo.AgentConfig(
            discount=discount,
            epochs=1,
            minibatches=1,
            recompute_values=True,
            optimizer=OptimizerConfig(learning_rate=0.1, max_grad_norm=1e3),
        ),
    }[name]
    updates = 3000
    agent = {"impala": impala, "ppo": ppo}[name].make_agent(config, **around(tabular_network(), updates))
    learn = jax.jit(
        lambda state: jax.lax.fori_loop(0, updates, lambda _, s: make_agent_update(agent)(s, trajectory)[0], state)
    )
    learned = learn(agent.init(jax.random.key(0))).params["value"]
    np.testing.assert_allclose(learned, values_in_a_cycle(discount, truncate), rtol=5e-3)


def episodes_of_a_cycle(truncate):
    """Each step pays 1 and leads to the next of the states; an episode ends after as many as there are."""
    rollouts, _ = unroll(scripted_config({"episode_lengths": (NUM_STATES,), "truncate": truncate}), 5, [0], length=3)
    joined = jax.tree.map(lambda *xs: np.concatenate(xs, axis=min(1, np.ndim(xs[0]) - 1)), *rollouts)
    return dataclasses.replace(
        joined,
        observation=joined.observation[..., 2].astype(np.int32) % NUM_STATES,
        reward=np.where(~joined.first[1:], 1.0, 0.0).astype(np.float32),
        behaviour={"policy": np.zeros((3, 5, NUM_ACTIONS), np.float32), "value": np.zeros((3, 5), np.float32)},
        carry=(),
    )


def values_in_a_cycle(discount, truncate):
    left = NUM_STATES - np.arange(NUM_STATES)
    return np.full(NUM_STATES, 1 / (1 - discount)) if truncate else (1 - discount**left) / (1 - discount)
