"""MISA: losses of every bound and of its special cases by hand, chains against grids, and what a data set teaches."""

import dataclasses

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.actions import DiscreteActions
from podrl.agents.misa import AgentConfig, make_agent, misa_policy_loss
from podrl.agents.parts.critic_steps import noise_keys
from podrl.agents.parts.information import BOUNDS, sample_actions
from podrl.agents.parts.interface import Batch, Fresh, Partition
from podrl.agents.parts.recorded import REBALANCED, UNIFORM
from podrl.agents.parts.tilted import sample_tilted
from podrl.agents.parts.updating import make_update
from podrl.agents.sac import sac_policy_loss
from podrl.config.config import ConfigError
from podrl.types import Sample
from tests.agents.test_sac import (
    SIZE,
    SPEC,
    asked,
    loop_over_targets,
    paper_values,
    plain,
    random_sample,
    toy_networks,
)

NETWORKS = toy_networks()
BATCH = 16
GRID = np.linspace(-9, 9, 6001)  # Actions before squashing.


def make_toy_agent(partition=Partition(), **config):  # noqa: B008 (frozen)
    config = AgentConfig(**{"action_samples": 6, **config})
    return make_agent(config, networks=asked(NETWORKS), spec=SPEC, num_envs=4, num_updates=10, partition=partition)


def recorded(seed=0, **changed):
    """Single transitions and resets with weights, as from a data set."""
    sample = random_sample(seed, length=1, batch=BATCH)
    trajectory = dataclasses.replace(sample.trajectory, **changed)
    return Sample(trajectory=trajectory, weight=sample.weight)


def learn_from(sample, seed=0, **config):
    agent = make_toy_agent(**config)
    state = agent.init(jax.random.key(seed))
    return state, *jax.jit(agent.learn)(state, Batch(recorded={"data": sample}))


def outputs(params, observation):
    return np.asarray(observation @ params["policy"]["weights"] + params["policy"]["bias"])


def log_density(output, u):
    """log pi(tanh u) in float64."""
    mean, scale = (np.float64(x) for x in NETWORKS.distribution.gaussian(output))
    gaussian = -0.5 * ((u - mean) / scale) ** 2 - np.log(scale * np.sqrt(2 * np.pi))
    return np.sum(gaussian - np.log1p(-(np.tanh(u) ** 2)), axis=-1)


def gaps_by_hand(bound, sample, params, actions):
    """What each row and critic adds: [B, 2]."""
    trajectory, weight = sample.trajectory, np.where(sample.trajectory.first[1], 0, sample.weight)
    values = np.stack(
        [
            paper_values(params["critic"], *row)
            for row in zip(trajectory.observation[0], trajectory.action[0], strict=True)
        ]
    )
    sampled = np.stack(
        [
            [paper_values(params["critic"], observation, action) for action in several]
            for observation, several in zip(trajectory.observation[0], actions[0], strict=True)
        ]
    )
    means = np.mean(np.exp(sampled), axis=1)
    if bound == "dv":
        means = np.broadcast_to(np.average(means, axis=0, weights=weight), means.shape)
    return np.log(means) - values


@pytest.mark.parametrize("bound", BOUNDS)
def test_critics_lose_their_errors_and_the_weighted_gap_of_the_bound(bound):
    sample = recorded()
    state, _, metrics, _ = learn_from(sample, bound=bound, critic_information_cost=1.5, discount=0.9)
    _, target_key, critic_key, _ = jax.random.split(state.key, 4)
    trajectory, params, policy = sample.trajectory, state.params, NETWORKS.distribution
    next_actions = jax.vmap(policy.sample)(
        noise_keys(target_key, trajectory), outputs(params, trajectory.observation[1:])
    )
    targets = loop_over_targets(
        sample, lambda seen, t, b: paper_values(params["critic"], seen, np.asarray(next_actions)[t, b]).min(), 0.9
    )
    keys = noise_keys(critic_key, trajectory)
    actions = np.asarray(sample_actions(NETWORKS, outputs(params, trajectory.observation[:1]), keys, 6))
    assert len(np.unique(actions)) == actions.size
    gaps = gaps_by_hand(bound, sample, params, actions)
    errors, gap, weighted, real = 0.0, 0.0, 0.0, ~trajectory.first[1]
    for (t, b), target in targets.items():
        values = paper_values(params["critic"], trajectory.observation[t, b], trajectory.action[t, b])
        errors += sample.weight[b] * 0.5 * np.sum((target - values) ** 2)
        weighted += sample.weight[b] * 1.5 * np.sum(gaps[b])
        gap += np.mean(gaps[b])
    assert 0 < (~real).sum() < BATCH / 2
    assert float(metrics["loss/value"]) == pytest.approx(errors / real.sum(), rel=1e-4)
    losses = [metrics[name] for name in ("loss/value", "loss/policy", "loss/information") if name in metrics]
    assert float(metrics["loss/total"]) == pytest.approx(float(sum(losses)), rel=1e-5)
    assert ("value/gap" in metrics) == (bound != "ba")
    if bound != "ba":
        assert float(metrics["loss/information"]) == pytest.approx(weighted / real.sum(), rel=1e-3)
        assert float(metrics["value/gap"]) == pytest.approx(gap / real.sum(), rel=1e-3)
        information = metrics["policy/recorded_log_prob"] - metrics["value/gap"]
        assert float(metrics["value/information"]) == pytest.approx(float(information), rel=1e-3)


def policy_loss(sample, key, temperature=0.3, **config):
    config = AgentConfig(**{"action_samples": 6, **config})
    extra = {"log_temperature": jnp.log(temperature), "hmc_step_size": jnp.float32(0.7)}
    params = make_toy_agent().init(jax.random.key(0)).params
    found = jax.jit(lambda: misa_policy_loss(config, NETWORKS, params, extra, sample.trajectory, key))()
    return params, *found


def test_without_costs_of_its_own_the_policy_is_that_of_conservative_q_learning_which_is_sacs():
    sample, key = recorded(), jax.random.key(3)
    params, losses, told = policy_loss(sample, key, policy_information_cost=0.0, tilted_cost=0.0)
    expected, _ = sac_policy_loss(NETWORKS, params, jnp.float32(0.3), sample.trajectory, jax.random.split(key)[0])
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert "policy/hmc_acceptance" not in told


@pytest.mark.parametrize("value_weight", [1.5, 0.0])
def test_with_the_policys_bound_alone_it_clones_beside_maximising_values_or_does_nothing_else(value_weight):
    sample, key = recorded(), jax.random.key(3)
    params, losses, told = policy_loss(sample, key, bound="ba", policy_information_cost=2.0, value_weight=value_weight)
    trajectory = sample.trajectory
    keys, output = noise_keys(jax.random.split(key)[0], trajectory), outputs(params, trajectory.observation[:1])
    actions, log_probs = jax.vmap(NETWORKS.distribution.sample_and_log_prob)(keys, output)
    for b in range(BATCH):
        value = paper_values(params["critic"], trajectory.observation[0, b], np.asarray(actions)[0, b]).min()
        cloned = log_density(output[0, b], np.arctanh(np.clip(np.float64(trajectory.action[0, b]), -0.999, 0.999)))
        improved = 0.3 * float(log_probs[0, b]) - value_weight * value if value_weight else 0.0
        expected = improved - 2 * cloned
        assert float(losses[0, b]) == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert "policy/hmc_acceptance" not in told


def one_row(count):
    """One transition as often as there are chains, and critics that are equal, so that entries are independent."""
    sample = recorded()
    tiled = sample.trajectory.map(
        lambda x: np.repeat(x[:, :1], count, axis=1), lambda x: np.repeat(x[:1], count, axis=0)
    )
    squares, slopes = np.float32([[0.3, 0, -1.5, 0.5], [0, 0.2, 3, -4]])
    critic = {name: np.stack([x, x], axis=1) for name, x in (("squares", squares), ("slopes", slopes))}
    policy = {"weights": np.float32(0.1 * np.ones((SIZE, 2 * SIZE))), "bias": np.float32([-0.5, 0.4, 0.1, 0.5])}
    trajectory = dataclasses.replace(tiled, env_index=np.arange(count, dtype=np.uint32))
    return trajectory, {"policy": policy, "critic": critic}


def on_grid(params, trajectory):
    """Weights of the tilted density of each entry of the action on the grid [N, D], and log of the mean of e^Q."""
    mean, scale = (np.float64(x) for x in NETWORKS.distribution.gaussian(outputs(params, trajectory.observation[0, 0])))
    prior = np.exp(-0.5 * ((GRID[:, None] - mean) / scale) ** 2)
    prior /= prior.sum(axis=0)
    squares, slopes = (np.float64(params["critic"][name])[SIZE:, 0] for name in ("squares", "slopes"))
    tilted = prior * np.exp(squares * np.tanh(GRID[:, None]) ** 2 + slopes * np.tanh(GRID[:, None]))
    total = tilted.sum(axis=0)
    observation = paper_values(params["critic"], trajectory.observation[0, 0], np.zeros(SIZE))[0]
    return tilted / total, np.sum(np.log(total)) + observation


CHAINS = AgentConfig(action_samples=40, hmc_burn_in=60, hmc_leapfrog_steps=3, value_weight=0.0, tilted_cost=0.5)


def test_chains_sample_the_policy_tilted_by_its_critics():
    trajectory, params = one_row(4096)
    chains = jax.jit(lambda: sample_tilted(CHAINS, NETWORKS, params, trajectory, jax.random.key(1), jnp.float32(0.7)))()
    weights, _ = on_grid(params, trajectory)
    assert chains.samples.shape == (40, 1, 4096, SIZE)
    assert 0.5 < float(jnp.mean(chains.acceptance)) < 0.95
    actions, entries = np.tanh(np.asarray(chains.samples, np.float64)).reshape(-1, SIZE), np.tanh(GRID[:, None])
    means = np.sum(weights * entries, axis=0)
    np.testing.assert_allclose(np.mean(actions, axis=0), means, rtol=0.02)
    np.testing.assert_allclose(np.mean(actions**2, axis=0), np.sum(weights * entries**2, axis=0), rtol=0.02)
    output = outputs(params, trajectory.observation[0])
    alone = NETWORKS.distribution.sample(jax.random.split(jax.random.key(2), 4096), output)
    assert np.abs(np.mean(alone, axis=0) - means).max() > 0.2


def test_the_policys_terms_are_the_gradient_of_the_tilted_bound():
    """Against differences of the bound on a grid."""
    trajectory, params = one_row(2048)
    extra = {"log_temperature": jnp.float32(-jnp.inf), "hmc_step_size": jnp.float32(0.7)}

    @jax.jit
    def slope_of(bias):
        policy = {**params["policy"], "bias": bias}
        losses, _ = misa_policy_loss(
            CHAINS, NETWORKS, {**params, "policy": policy}, extra, trajectory, jax.random.key(1)
        )
        return jnp.mean(losses)

    def loss(bias):
        moved = {**params, "policy": {**params["policy"], "bias": bias}}
        recorded = log_density(
            outputs(moved, trajectory.observation[0, 0]), np.arctanh(np.float64(trajectory.action[0, 0]))
        )
        return 0.5 * (on_grid(moved, trajectory)[1] - recorded)

    bias = params["policy"]["bias"]
    found = jax.grad(slope_of)(bias)
    steps = np.float32(1e-2) * np.eye(2 * SIZE, dtype=np.float32)
    expected = [(loss(bias + step) - loss(bias - step)) / 2e-2 for step in steps]
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert np.abs(expected).min() > 0.05


def test_the_policys_loss_is_finite_for_actions_at_the_border():
    sample = recorded(action=np.sign(random_sample(1, 1, BATCH).trajectory.action))
    _, after, metrics, _ = learn_from(sample)
    assert all(np.isfinite(x) for x in metrics.values())
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((after.params, after.extra)))
    assert float(metrics["policy/hmc_acceptance"]) > 0.1


@pytest.mark.parametrize("bound", BOUNDS)
def test_resets_teach_nothing(bound):
    resets = recorded(first=np.ones((2, BATCH), bool), reward=np.full((1, BATCH), 1e6, np.float32))
    state, after, metrics, _ = learn_from(resets, bound=bound)
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
    for name in ("log_temperature", *(["hmc_step_size"] if bound == "tilted" else [])):
        assert float(after.extra[name]) == float(state.extra[name])
    assert all(np.isfinite(x) for x in metrics.values())


@pytest.mark.parametrize("bound", [pytest.param("dv", marks=pytest.mark.slow), "tilted"])
def test_each_part_learns_from_its_stream_with_its_weights(bound):
    """Critics' errors from the uniform stream, all else from the rebalanced one; the normalizer of `dv` is weighted."""
    proportional = dataclasses.replace(plain(0.01), epsilon=1.0)  # Adam's first step would be of one length.
    moving = dict.fromkeys(("optimizer", "temperature_optimizer"), proportional)
    agent = make_toy_agent(bound=bound, critic_optimizer=plain(1e-12), **moving)
    state, learn = agent.init(jax.random.key(0)), jax.jit(agent.learn)

    def learned(uniform, rebalanced):
        after, metrics, _ = learn(state, Batch(recorded={UNIFORM: uniform, REBALANCED: rebalanced}))
        found = {name: metrics[name] for name in ("loss/value", "loss/information", "value/gap")}
        found |= {name: after.extra[name] for name in ("log_temperature", "hmc_step_size") if name in after.extra}
        return {**found, "policy": after.params["policy"]["bias"]}

    def changed(*streams):
        found = learned(*streams)
        return {name for name, x in first.items() if np.any(x != found[name])}

    one, other, third = (recorded(seed) for seed in (1, 2, 3))
    even, first = dataclasses.replace(other, weight=np.ones_like(other.weight)), learned(one, other)
    assert changed(third, other) == {"loss/value"}
    assert changed(one, third) == set(first) - {"loss/value"}
    assert changed(one, even) == {"loss/information", "policy", *(["value/gap"] if bound == "dv" else [])}


@pytest.mark.parametrize("bound", ["dv", pytest.param("tilted", marks=pytest.mark.slow)])
def test_neither_the_place_in_a_batch_nor_its_parts_matter(bound):
    sample, order = recorded(), np.random.default_rng(0).permutation(BATCH)
    shuffled = sample.map(lambda x: x[:, order], lambda x: x[order])
    config = {"bound": bound, **{name: plain(1e-3) for name in ("optimizer", "critic_optimizer")}}
    _, whole, metrics, _ = learn_from(sample, **config)
    _, after, told, _ = learn_from(shuffled, partition=Partition(micro_batches=4, rolls_micro_batches=True), **config)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), after.params, whole.params)
    for name in ("loss/total", "loss/policy", "grad/critic_norm", "grad/policy_norm"):
        assert float(told[name]) == pytest.approx(float(metrics[name]), rel=1e-3)


def test_the_step_size_is_adapted_from_call_to_call():
    agent = make_toy_agent(hmc_step_size=0.1, hmc_acceptance=0.8)
    learn, state, expected = jax.jit(agent.learn), agent.init(jax.random.key(0)), 0.1
    for call in range(4):
        state, metrics, _ = learn(state, Batch(recorded={"data": recorded(call)}))
        assert float(metrics["policy/hmc_step_size"]) == pytest.approx(expected)
        expected *= np.exp(0.05 * (float(metrics["policy/hmc_acceptance"]) - 0.8))
    assert 0.102 < expected < 0.105
    assert learn._cache_size() == 1


@pytest.mark.parametrize("bound", ["tilted", *(pytest.param(x, marks=pytest.mark.slow) for x in ("ba", "dv"))])
def test_it_learns_the_best_action_from_actions_at_random(bound):
    """Critics that are parabolas can have the rewards exactly."""
    optimizers = {name: plain(0.01) for name in ("optimizer", "critic_optimizer", "temperature_optimizer")}
    agent = make_toy_agent(bound=bound, critic_information_cost=0.2, policy_information_cost=0.1, **optimizers)
    best, state = np.float32([0.5, -0.3]), agent.init(jax.random.key(0))
    rng, calls = np.random.default_rng(0), 600
    action = rng.uniform(-1, 1, (calls, 1, BATCH, SIZE)).astype(np.float32)
    one = recorded(first=np.zeros((2, BATCH), bool), discount=np.zeros((1, BATCH), np.float32))
    data = jax.tree.map(
        lambda x: np.broadcast_to(x, (calls, *x.shape)), dataclasses.replace(one, weight=np.ones(BATCH))
    )
    trajectory = dataclasses.replace(
        data.trajectory,
        action=action,
        reward=-10 * np.square(action - best).sum(-1),
        observation=np.zeros_like(data.trajectory.observation),
    )
    fresh = Fresh(recorded={"data": dataclasses.replace(data, trajectory=trajectory)})
    state, metrics = jax.jit(make_update(agent))(state, fresh)
    greedy = np.tanh(state.params["policy"]["bias"][:SIZE])
    np.testing.assert_allclose(greedy, best, atol=0.15)
    assert np.isfinite(metrics["loss/total"])


def test_actions_that_are_no_numbers_are_refused_in_one_line():
    spec = dataclasses.replace(SPEC, actions=DiscreteActions(3))
    with pytest.raises(ConfigError, match=r"agent.name='misa' takes actions of numbers; .* are one choice") as caught:
        make_agent(AgentConfig(), networks=asked(NETWORKS), spec=spec, num_envs=4, num_updates=10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ({"bound": "tightest"}, "agent.bound='tightest'"),
        ({"action_samples": 0}, r"agent.action_samples=0 must lie in \[1, 10000\]"),
        ({"max_action": 1.0}, r"agent.max_action=1.0 must lie in \[0.5, 1\)"),
        ({"hmc_step_size": 0.0}, r"agent.hmc_step_size=0.0 must lie in"),
        ({"critic_optimizer": plain(-1.0)}, "agent.critic_optimizer.learning_rate=-1.0 must"),
    ],
)
def test_values_out_of_range_are_refused(override, said):
    with pytest.raises(ConfigError, match=said):
        AgentConfig(**override)


def test_it_learns_from_data_alone_and_acts_by_its_policy_from_the_start():
    shape, agent = AgentConfig().update_shape, make_toy_agent()
    assert shape.needs_data
    assert shape.sequences is None
    assert not agent.actor_params(agent.init(jax.random.key(0)))["is_random"]
