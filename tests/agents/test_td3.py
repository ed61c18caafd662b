"""TD3: targets with noise, the delayed policy, and how actors explore, against loops written from the paper."""

import dataclasses

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.agents.parts.behaviour import stay_near_recorded
from podrl.agents.parts.critic_steps import noise_keys
from podrl.agents.parts.interface import Batch, Partition
from podrl.agents.parts.recorded import REBALANCED, UNIFORM
from podrl.agents.td3 import AgentConfig, make_agent, td3_policy_loss, td3_targets
from podrl.config.config import ConfigError
from podrl.types import Timestep
from tests.agents.test_sac import (
    SIZE,
    SPEC,
    asked,
    loop_over_targets,
    moved,
    paper_values,
    plain,
    random_sample,
    toy_networks,
)

NETWORKS = toy_networks(num_params=SIZE)


def make_toy_agent(**config):
    config = AgentConfig(**{"random_steps": 0, **config})
    return make_agent(config, networks=asked(NETWORKS), spec=SPEC, num_envs=4, num_updates=10)


def evaluate(params, observation):
    return np.tanh(np.float64(observation @ params["policy"]["weights"] + params["policy"]["bias"]))


@pytest.mark.parametrize("limit", [0.05, 0.5])
def test_targets_are_those_of_slow_copies_for_an_action_with_clipped_noise(limit):
    sample, key = random_sample(), jax.random.key(5)
    target = moved({**NETWORKS.policy.init(None), **NETWORKS.critic.init(None)})
    config = AgentConfig(discount=0.9, max_target_noise=limit)
    found = jax.jit(lambda: td3_targets(config, NETWORKS, target, sample.trajectory, key))()
    noise = jax.vmap(jax.vmap(lambda key: jax.random.normal(key, (SIZE,))))(noise_keys(key, sample.trajectory))
    assert np.abs(0.2 * noise).max() > 0.4

    def next_value(observation, t, b):
        action = evaluate(target, observation) + np.clip(0.2 * noise[t, b], -limit, limit)
        return paper_values(target["critic"], observation, np.clip(action, -1, 1)).min()

    expected = np.zeros_like(found)
    for place, value in loop_over_targets(sample, next_value, 0.9).items():
        expected[place] = value
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_policy_climbs_the_first_critic_and_does_not_know_the_second():
    sample, params = random_sample(), {**NETWORKS.policy.init(None), **NETWORKS.critic.init(None)}
    losses, _ = td3_policy_loss(NETWORKS, params, sample.trajectory)
    for t, b in ((0, 0), (2, 5)):
        observation = sample.trajectory.observation[t, b]
        value = paper_values(params["critic"], observation, evaluate(params, observation))[0]
        assert float(losses[t, b]) == pytest.approx(-value, rel=1e-4)
    slopes = jax.grad(
        lambda critic: jnp.sum(td3_policy_loss(NETWORKS, {**params, "critic": critic}, sample.trajectory)[0])
    )(params["critic"])
    assert all(np.any(x[:, 0]) and not np.any(x[:, 1]) for x in jax.tree.leaves(slopes))


def test_policy_and_slow_copies_move_at_every_period_and_the_critics_always():
    agent = make_toy_agent(policy_period=3, target_rate=0.25, optimizer=plain(0.01), critic_optimizer=plain(0.01))
    learn, state = jax.jit(agent.learn), agent.init(jax.random.key(0))
    for call in range(1, 7):
        after, metrics, _ = learn(state, Batch(rollouts=random_sample(call)))
        after = dataclasses.replace(after, learner_step=after.learner_step + 1)  # As an update counts.
        assert np.any(after.params["critic"]["slopes"] != state.params["critic"]["slopes"])
        moves = call % 3 == 0
        assert np.any(after.params["policy"]["bias"] != state.params["policy"]["bias"]) == moves
        assert (float(metrics["loss/policy"]) != 0) == moves
        norms = [float(metrics["grad/critic_norm"]), float(metrics["grad/policy_norm"]) / 3]  # Of this call's own.
        assert float(metrics["grad/norm"]) == pytest.approx(np.linalg.norm(norms), rel=1e-5)
        losses = float(metrics["loss/value"]) + float(metrics["loss/policy"]) / 3
        assert float(metrics["loss/total"]) == pytest.approx(losses, rel=1e-5)
        share = 0.25 if moves else 0.0
        for name in ("policy", "critic"):
            jax.tree.map(
                lambda new, old, target, share=share: np.testing.assert_allclose(
                    new, share * target + (1 - share) * old, rtol=1e-5
                ),
                *(after.extra["target"][name], state.extra["target"][name], after.params[name]),
            )
        state = after


class TestBehaviour:
    """TD3+BC: how the policy is held to the recorded actions."""

    def learn(self, batch, alpha=2.5, partition=None):
        """One step of the policy, with critics that stay as they are."""
        proportional = dataclasses.replace(plain(0.01), epsilon=1.0)
        config = AgentConfig(
            behaviour_alpha=alpha, policy_period=1, optimizer=proportional, critic_optimizer=plain(1e-12)
        )
        agent = make_agent(
            config,
            networks=asked(NETWORKS),
            spec=SPEC,
            num_envs=4,
            num_updates=10,
            partition=partition or Partition(),
        )
        state = agent.init(jax.random.key(0))
        return state, *jax.jit(agent.learn)(state, batch)[:2]

    def streams(self, uniform, rebalanced):
        return Batch(recorded={UNIFORM: random_sample(uniform), REBALANCED: random_sample(rebalanced)})

    def test_values_are_divided_by_their_mean_size_and_distances_are_not(self):
        """Both of the rebalanced stream, with its weights; the size is that of all rows alike."""
        state, _, metrics = self.learn(self.streams(1, 2))
        sample, values, distances = random_sample(2), [], []
        rows = np.argwhere(sample.trajectory.is_transition)
        for t, b in rows:
            observation = sample.trajectory.observation[t, b]
            action = evaluate(state.params, observation)
            values.append(paper_values(state.params["critic"], observation, action)[0])
            distances.append(np.mean((action - sample.trajectory.action[t, b]) ** 2))
        scale = 2.5 / np.mean(np.abs(values))
        expected = np.mean(sample.weight[rows[:, 1]] * (-scale * np.array(values) + distances))
        assert float(metrics["loss/policy"]) == pytest.approx(expected, rel=1e-4)
        assert float(metrics["policy/distance"]) == pytest.approx(np.mean(distances), rel=1e-4)

    def test_no_gradient_flows_through_the_size_of_values(self):
        """With one row the loss would otherwise not depend on the value."""
        sample = random_sample(2, length=1, batch=1)
        trajectory = dataclasses.replace(sample.trajectory, first=np.zeros((2, 1), bool))
        loss = stay_near_recorded(
            2.5,
            NETWORKS,
            {**NETWORKS.policy.init(None), **NETWORKS.critic.init(None)},
            dataclasses.replace(sample, trajectory=trajectory),
            lambda params, part: td3_policy_loss(NETWORKS, params, part),
        )
        params = {**NETWORKS.policy.init(None), **NETWORKS.critic.init(None)}

        def distance(policy):
            action = jnp.tanh(trajectory.observation[0, 0] @ policy["weights"] + policy["bias"])
            return jnp.mean(jnp.square(action - trajectory.action[0, 0]))

        whole = jax.grad(lambda policy: loss({**params, "policy": policy}, trajectory)[0].sum())(params["policy"])
        alone = jax.grad(distance)(params["policy"])
        assert np.any(np.abs(whole["bias"] - alone["bias"]) > 1e-3)

    def test_the_policy_is_improved_on_the_rebalanced_stream_alone_and_critics_on_the_uniform_one(self):
        policies, errors = [], []
        for streams in ((1, 2), (3, 2), (1, 3)):
            _, after, metrics = self.learn(self.streams(*streams))
            policies.append(after.params["policy"]["bias"])
            errors.append(float(metrics["loss/value"]))
        np.testing.assert_array_equal(policies[0], policies[1])
        assert np.any(policies[0] != policies[2])
        assert errors[0] == errors[2] != errors[1]

    @pytest.mark.slow
    def test_micro_batches_learn_the_same(self):
        parts = [Partition(micro_batches=num) for num in (1, 4)]
        policies = [self.learn(self.streams(1, 2), partition=part)[1].params["policy"] for part in parts]
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), *policies)

    def test_what_has_learned_from_a_data_set_never_acts_at_random(self):
        agent = make_toy_agent(random_steps=100)
        state, learn = agent.init(jax.random.key(0)), jax.jit(agent.learn)
        assert agent.actor_params(state)["is_random"]
        assert agent.actor_params(learn(state, Batch(rollouts=random_sample()))[0])["is_random"]
        assert not agent.actor_params(learn(state, self.streams(1, 2))[0])["is_random"]


def test_actors_add_noise_and_stay_within_the_range():
    agent, many = make_toy_agent(exploration_noise=0.1), 4000
    state = agent.init(jax.random.key(0))
    row = np.zeros(many, np.float32)
    timestep = Timestep(observation=np.zeros((many, SIZE), np.float32), reward=row, discount=row, first=row > 0)
    params = {**agent.actor_params(state), "policy": {**state.params["policy"], "bias": jnp.float32([0.2, 3.0])}}
    keys = jax.random.split(jax.random.key(1), many)
    action = np.asarray(jax.jit(agent.act)(params, timestep, (), keys)[0])
    mean = np.tanh([0.2, 3.0])
    np.testing.assert_allclose(agent.act_greedy(params, timestep, (), keys)[0][0], mean, rtol=1e-4)
    np.testing.assert_allclose(action[:, 0].mean(), mean[0], atol=0.01)
    np.testing.assert_allclose(action[:, 0].std(), 0.1, rtol=0.05)
    assert action.max() == 1
    assert np.mean(action[:, 1] == 1) == pytest.approx(0.48, abs=0.03)  # Its mean is 0.995.


def test_values_out_of_range_are_refused():
    with pytest.raises(ConfigError, match=r"agent.policy_period=0 must lie in \[1, 1e6\]"):
        AgentConfig(policy_period=0)
