"""CQL's term, for actions that are numbers and for one choice, against loops written from the paper."""

import dataclasses
import functools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from configs import cql
from podrl.agents.parts.conservative import conservative_gaps, propose_actions
from podrl.agents.parts.interface import Batch, Partition
from podrl.agents.parts.recorded import REBALANCED, UNIFORM
from podrl.agents.r2d2 import AgentConfig as DiscreteConfig
from podrl.agents.sac import AgentConfig, make_agent, sac_targets
from podrl.assembly import resolve
from tests.agents import test_r2d2
from tests.agents.test_sac import SIZE, SPEC, asked, paper_values, plain, random_sample, toy_networks

STILL = plain(1e-12)  # Steps so small that float32 parameters of size one stay as they are.
# Steps in proportion to the gradient, where Adam's first would be of one length.
PROPORTIONAL = dataclasses.replace(plain(0.01), epsilon=1.0)
APEX = {"starts": "rows", "burn_in": 0, "length": 1, "n_steps": 3, "rescale_values": False, "discount": 0.9}


@pytest.fixture(scope="module")
def networks():
    return toy_networks()


def params_of(networks):
    """With a policy that is nowhere near the edge of the range."""
    policy = jax.tree.map(lambda x: 0.1 * x, networks.policy.init(None)["policy"])
    return {"policy": policy, **networks.critic.init(None)}


def test_the_config_weighs_the_term_as_the_authors_do_and_learns_the_temperature_like_the_policy():
    """Their weight of 5 stands beside the whole squared error."""
    agent = resolve(cql.get_config()).agent
    assert agent.conservative_weight == 5 / 2
    assert agent.temperature_optimizer == agent.optimizer
    assert agent.critic_optimizer == dataclasses.replace(agent.optimizer, learning_rate=3e-4)


def both(uniform, rebalanced):
    return Batch(recorded={UNIFORM: uniform, REBALANCED: rebalanced})


def test_proposed_actions_are_uniform_and_the_policys_and_come_with_their_densities(networks):
    trajectory, params = random_sample().trajectory, params_of(networks)
    actions, log_densities = jax.jit(
        lambda: propose_actions(networks, params, trajectory, jax.random.key(1), num=200)
    )()
    assert actions.shape == (3, 16, 400, SIZE)
    drawn = np.asarray(actions[:, :, :200])
    histogram = np.histogram(drawn, bins=8, range=(-1, 1))[0]
    np.testing.assert_allclose(histogram, drawn.size / 8, rtol=0.05)
    assert abs(np.corrcoef(drawn[..., 0].ravel(), drawn[..., 1].ravel())[0, 1]) < 0.03
    assert len(np.unique(drawn)) > 0.99 * drawn.size  # No two rows share their noise.
    np.testing.assert_allclose(log_densities[:, :, :200], SIZE * np.log(0.5), rtol=1e-6)
    output = networks.policy_at(params, trajectory, 0)[:, :, None]
    inside = np.abs(actions[:, :, 200:]).max(-1) < 0.99  # Where the action itself shows what was sampled.
    expected = networks.distribution.log_prob(output, actions[:, :, 200:])
    np.testing.assert_allclose(log_densities[:, :, 200:][inside], expected[inside], rtol=1e-2, atol=1e-2)
    medians = np.median(actions[:, :, 200:], axis=2)
    np.testing.assert_allclose(medians, networks.distribution.mode(output[:, :, 0]), atol=0.25)


def test_the_estimate_is_the_integral_over_all_actions(networks):
    """Integrates exp(Q) on a grid, for critics that are parabolas."""
    trajectory, params = random_sample(length=1, batch=4).trajectory, params_of(networks)
    found = jax.jit(lambda: conservative_gaps(networks, params, trajectory, jax.random.key(1), num=20_000))()
    centres = (np.arange(200) + 0.5) / 100 - 1
    grid = np.stack(np.meshgrid(centres, centres), -1).reshape(-1, SIZE)
    for b in range(4):
        observation = trajectory.observation[0, b]
        values = np.stack([paper_values(params["critic"], observation, action) for action in grid])
        integral = np.log(np.sum(np.exp(values), axis=0) / 100**2)
        expected = integral - paper_values(params["critic"], observation, trajectory.action[0, b])
        np.testing.assert_allclose(found[0, b], expected, atol=0.06)


def test_uniform_and_policy_actions_are_weighted_by_their_densities(networks):
    trajectory, params, key = random_sample().trajectory, params_of(networks), jax.random.key(1)
    found = jax.jit(lambda: conservative_gaps(networks, params, trajectory, key, num=3))()
    actions, log_densities = map(np.float64, propose_actions(networks, params, trajectory, key, num=3))
    for t, b in ((0, 0), (2, 5)):
        observation = trajectory.observation[t, b]
        total = np.zeros(2)
        for action, log_density in zip(actions[t, b], log_densities[t, b], strict=True):
            total += np.exp(paper_values(params["critic"], observation, action) - log_density) / 6
        own = paper_values(params["critic"], observation, trajectory.action[t, b])
        np.testing.assert_allclose(found[t, b], np.log(total) - own, rtol=1e-4, atol=1e-4)


@functools.cache
def make_learn(weight=5.0, critic_optimizer=STILL, micro_batches=1):
    """The first state of SAC, and how it learns, compiled once for each kind of batch."""
    config = AgentConfig(
        conservative_weight=weight,
        conservative_actions=3,
        optimizer=PROPORTIONAL,
        critic_optimizer=critic_optimizer,
    )
    parts = Partition(micro_batches=micro_batches)
    networks = asked(toy_networks())
    agent = make_agent(config, networks=networks, spec=SPEC, num_envs=4, num_updates=10, partition=parts)
    return agent.init(jax.random.key(0)), jax.jit(agent.learn)


class TestSac:
    """What the critics of SAC learn of two streams."""

    def learn(self, batch, **options):
        state, learn = make_learn(**options)
        return state, *learn(state, batch)[:2]

    def test_errors_are_of_the_uniform_stream_and_the_term_of_the_rebalanced_one_each_with_its_weights(self):
        uniform, rebalanced = random_sample(1), random_sample(2)
        state, _, metrics = self.learn(both(uniform, rebalanced))
        networks, params = toy_networks(), state.params
        target_key, term_key = jax.random.split(state.key, 3)[1], jax.random.fold_in(state.key, 3)
        real = rebalanced.trajectory.is_transition
        gaps = conservative_gaps(networks, params, rebalanced.trajectory, term_key, num=3).sum(-1)
        expected = 5 * np.sum(np.where(real, gaps * rebalanced.weight, 0)) / real.sum()
        assert float(metrics["loss/conservative"]) == pytest.approx(expected, rel=1e-4)
        targets = np.asarray(sac_targets(AgentConfig(), networks, state, uniform.trajectory, target_key))
        total, real = 0.0, uniform.trajectory.is_transition
        for t, b in np.argwhere(real):
            observation, action = uniform.trajectory.observation[t, b], uniform.trajectory.action[t, b]
            errors = targets[t, b] - paper_values(params["critic"], observation, action)
            total += uniform.weight[b] * 0.5 * np.sum(errors**2)
        assert float(metrics["loss/value"]) == pytest.approx(total / real.sum(), rel=1e-4)
        parts = sum(float(metrics[f"loss/{name}"]) for name in ("value", "policy", "conservative"))
        assert float(metrics["loss/total"]) == pytest.approx(parts, rel=1e-5)

    def test_the_policy_is_improved_on_the_rebalanced_stream_alone(self):
        one, other, third = random_sample(1), random_sample(2), random_sample(3)
        policies = [
            self.learn(both(*streams))[1].params["policy"] for streams in ((one, other), (third, other), (one, third))
        ]
        jax.tree.map(np.testing.assert_array_equal, policies[0], policies[1])
        assert np.any(policies[0]["bias"] != policies[2]["bias"])

    def test_without_the_term_critics_do_not_see_the_rebalanced_stream(self):
        one, other, third = random_sample(1), random_sample(2), random_sample(3)

        def critics(weight):
            streams = ((one, other), (one, third))
            learned = [self.learn(both(*given), weight=weight, critic_optimizer=PROPORTIONAL)[1] for given in streams]
            return [x.params["critic"]["slopes"] for x in learned]

        np.testing.assert_array_equal(*critics(0.0))
        assert np.any(np.not_equal(*critics(5.0)))

    def test_weights_of_recorded_samples_weigh_the_policys_loss_and_those_of_rollouts_do_not(self):
        sample = random_sample(1)
        even = dataclasses.replace(sample, weight=np.ones_like(sample.weight))
        recorded = [self.learn(Batch(recorded={UNIFORM: x}))[1].params["policy"] for x in (sample, even)]
        fresh = [self.learn(Batch(rollouts=x))[1].params["policy"] for x in (sample, even)]
        assert np.any(recorded[0]["bias"] != recorded[1]["bias"])
        jax.tree.map(np.testing.assert_array_equal, *fresh)
        jax.tree.map(np.testing.assert_array_equal, recorded[1], fresh[1])

    @pytest.mark.slow
    def test_micro_batches_learn_the_same(self):
        batch = both(random_sample(1), random_sample(2))
        steps = [
            self.learn(batch, micro_batches=num, critic_optimizer=PROPORTIONAL)[1].params["critic"] for num in (1, 4)
        ]
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), *steps)

    def test_targets_are_without_entropy_where_they_are_to_be(self):
        networks, sample = toy_networks(), random_sample()
        state, _, _ = self.learn(Batch(recorded={UNIFORM: sample}))
        found = [
            sac_targets(AgentConfig(entropy_in_targets=flag), networks, state, sample.trajectory, jax.random.key(5))
            for flag in (True, False)
        ]
        cold = {**state.extra, "log_temperature": jnp.float32(-1e3)}
        cold_state = dataclasses.replace(state, extra=cold)
        wanted = sac_targets(AgentConfig(), networks, cold_state, sample.trajectory, jax.random.key(5))
        np.testing.assert_allclose(found[1], wanted, rtol=1e-6)
        assert np.any(found[0] != found[1])


class TestOneChoice:
    """What Ape-X learns of a data set."""

    def learn(self, batch, weight, **options):
        config = DiscreteConfig(**APEX, conservative_weight=weight, optimizer=PROPORTIONAL)
        values = np.random.default_rng(4).normal(size=(test_r2d2.NUM_STATES, test_r2d2.NUM_ACTIONS)) * 2
        agent = test_r2d2.make_table_agent(config, values=values, **options)
        state = agent.init(jax.random.key(0))
        return state, *jax.jit(agent.learn)(state, batch)[:2]

    def sample(self, seed):
        """Sequences of three rows, of which the first is learned from; with a carry as an explorer's ring keeps it."""
        return test_r2d2.random_sample(seed, length=3, batch=16)

    def test_the_term_is_of_the_first_rows_of_the_rebalanced_stream_with_its_weights(self):
        rebalanced = self.sample(2)
        state, _, metrics = self.learn(both(self.sample(1), rebalanced), 0.5)
        table, trajectory, total = np.float64(state.params["q"]), rebalanced.trajectory, 0.0
        for b in np.flatnonzero(trajectory.is_transition[0]):
            values = table[trajectory.observation[0, b]]
            total += rebalanced.weight[b] * (np.log(np.exp(values).sum()) - values[trajectory.action[0, b]])
        assert float(metrics["loss/conservative"]) == pytest.approx(0.5 * total / 16, rel=1e-5)
        _, _, without = self.learn(both(self.sample(1), rebalanced), 0.0)
        total = float(without["loss/total"]) + float(metrics["loss/conservative"])
        assert float(metrics["loss/total"]) == pytest.approx(total, rel=1e-5)

    def test_without_the_term_the_rebalanced_stream_teaches_nothing(self):
        one, other, third = (self.sample(seed) for seed in (1, 2, 3))
        for weight, alike in ((0.0, True), (0.5, False)):
            tables = [self.learn(both(one, x), weight)[1].params["q"] for x in (other, third)]
            assert np.array_equal(*tables) == alike

    def test_micro_batches_learn_the_same(self):
        batch = both(self.sample(1), self.sample(2))
        tables = [self.learn(batch, 0.5, partition=Partition(micro_batches=num))[1].params["q"] for num in (1, 4)]
        np.testing.assert_allclose(*tables, rtol=1e-4, atol=1e-5)

    def test_only_sequences_that_need_no_carry_come_from_a_data_set(self):
        assert DiscreteConfig().update_shape.recorded is None
        assert DiscreteConfig(**APEX).update_shape.recorded.rows == 3
