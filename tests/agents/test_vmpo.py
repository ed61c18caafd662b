import dataclasses

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.agents.parts.epochs import Experience
from podrl.agents.vmpo import AgentConfig, estimate_experience, make_agent, vmpo_loss
from podrl.config.config import ConfigError
from podrl.config.optimizer import OptimizerConfig
from podrl.config.popart import PopArtConfig
from podrl.networks.available import make_networks
from podrl.networks.interface import NetworkOutput
from podrl.ops.duals import LEAST_DUAL
from podrl.ops.gaussian import make_gaussian
from podrl.ops.vmpo import Weighted, weigh
from tests.agents.test_impala import NUM_ACTIONS, around, chain, tabular_network
from tests.agents.test_sums import log_softmax, random_case
from tests.short_runs import make_agent as make_run_agent
from tests.short_runs import make_agent_update, make_config, random_trajectory

NETWORK = tabular_network()
PLAIN = {"discount": 0.0, "popart": PopArtConfig(enabled=False)}


def constant(learning_rate):
    return OptimizerConfig(name="adam", learning_rate=learning_rate, learning_rate_decay=False, max_grad_norm=1e9)


def make_tabular_agent(learning_rate=0.01, dual_rate=0.01, network=NETWORK, **config):
    rates = {"optimizer": constant(learning_rate), "dual_optimizer": constant(dual_rate)}
    return make_agent(AgentConfig(**{**PLAIN, **rates, **config}), **around(network, 10))


def make_state(params, agent, target=None, **duals):
    state = agent.init(jax.random.key(0))
    duals = {**state.extra["duals"], **{name: jax.tree.map(jnp.float32, value) for name, value in duals.items()}}
    extra = {**state.extra, "target": params if target is None else target, "duals": duals}
    return dataclasses.replace(state, params=params, extra=extra)


def e_step(config, network, state, trajectory):
    """Compiled: eagerly, each operation would be a program of its own."""

    @jax.jit
    def run(state, trajectory):
        experience = estimate_experience(config, network, state, trajectory)
        temperature = state.extra["duals"]["temperature"]
        return weigh(experience, experience.advantages, trajectory.is_transition, temperature, fraction=0.5)

    return run(state, trajectory)


def run_updates(agent, state, trajectory, num):
    update = make_agent_update(agent)
    return jax.jit(lambda state: jax.lax.fori_loop(0, num, lambda _, s: update(s, trajectory)[0], state))(state)


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_and_its_gradient_are_the_papers_sums(seed):
    """With a target that differs: imitation by weight, the divergence over all real rows, and the value's error."""
    params, trajectory = random_case(seed)
    rng = np.random.default_rng(seed + 100)
    target = {**params, "policy": params["policy"] + rng.normal(size=params["policy"].shape).astype(np.float32)}
    config = AgentConfig(**{**PLAIN, "discount": 0.9, "lambda_": 0.8, "value_cost": 0.6})
    state = make_state(params, make_tabular_agent(), target, temperature=0.7, kl_cost={"choices": 2.5})
    weighted = e_step(config, NETWORK, state, trajectory)
    count = np.sum(trajectory.is_transition, dtype=np.float32)

    def loss_of(params):
        return vmpo_loss(config, NETWORK, params, state.extra, weighted, count)[0]

    loss, gradient = jax.jit(jax.value_and_grad(loss_of))(params)

    states, actions = trajectory.observation, trajectory.action
    log_p, log_old = log_softmax(np.float64(params["policy"])), log_softmax(np.float64(target["policy"]))
    values = np.float64(params["value"])[states]
    total, slopes = 0.0, {name: np.zeros(x.shape) for name, x in params.items()}
    for t, b in np.argwhere(trajectory.is_transition):
        weight, state_, action = float(weighted.weights[t, b]), states[t, b], actions[t, b]
        p, old = np.exp(log_p[state_]), np.exp(log_old[state_])
        advantage = advantage_of(trajectory, values, t, b, 0.9, 0.8)
        assert float(weighted.advantages[t, b]) == pytest.approx(advantage, rel=1e-4, abs=1e-5)
        total += (
            -weight * log_p[state_][action]
            + (2.5 * np.sum(old * (log_old - log_p)[state_]) + 0.6 * advantage**2 / 2) / count
        )
        slopes["policy"][state_] += weight * (p - (np.arange(NUM_ACTIONS) == action)) + 2.5 * (p - old) / count
        slopes["value"][state_] -= 0.6 * advantage / count
    assert float(loss) == pytest.approx(total, rel=1e-5)
    for name, expected in slopes.items():
        np.testing.assert_allclose(gradient[name], expected, rtol=1e-4, atol=2e-6)


def advantage_of(trajectory, values, t, b, discount, lambda_):
    total, weight = 0.0, 1.0
    for s in range(t, len(trajectory.reward)):
        if trajectory.first[s + 1, b]:
            break
        left = discount * float(trajectory.discount[s, b])
        total += weight * (float(trajectory.reward[s, b]) + left * values[s + 1, b] - values[s, b])
        weight *= left * lambda_
    return total


def test_only_the_better_half_is_imitated_and_the_better_the_more():
    """Each state is seen once; the rewards are the advantages."""
    trajectory = chain([0, 1, 2, 3, 0], [1, 1, 1, 1], [2.0, -1.0, 1.0, 0.0])
    agent = make_tabular_agent()
    state = agent.init(jax.random.key(0))
    weighted = e_step(AgentConfig(**PLAIN), NETWORK, state, trajectory)
    gradient = jax.jit(
        jax.grad(lambda p: vmpo_loss(AgentConfig(**PLAIN), NETWORK, p, state.extra, weighted, jnp.float32(4))[0])
    )(state.params)["policy"]
    share = np.exp(2) / (np.exp(2) + np.exp(1))
    np.testing.assert_allclose(-gradient[:, 1], [0.5 * share, 0, 0.5 * (1 - share), 0], rtol=1e-5, atol=1e-7)


def test_the_policys_loss_gives_the_value_no_gradient_and_the_duals_none():
    """Of a real network, whose body both share: the value's head gets none."""
    agent, spec = make_run_agent(make_config(agent="vmpo"))
    trajectory = random_trajectory(agent, spec, length=5, num_envs=4)
    config = make_config(agent="vmpo", agent__value_cost=0.0)
    network = make_networks(config.network, spec).actor_critic()
    state = agent.init(jax.random.key(0))
    moved = jax.tree.map(lambda x: x * 1.1, state.params)  # So that there is a divergence from the target.
    weighted = e_step(config.agent, network, state, trajectory)

    def loss_of(params, extra):
        return vmpo_loss(config.agent, network, params, extra, weighted, jnp.float32(20))[0]

    extra = {name: state.extra[name] for name in ("target", "duals")}
    slopes, extra_slopes = jax.jit(jax.grad(loss_of, argnums=(0, 1)))(moved, extra)
    assert not any(np.any(x) for x in jax.tree.leaves((slopes.pop("value"), extra_slopes)))
    assert all(np.any(x) for x in jax.tree.leaves(slopes["policy"]))


def test_the_target_acts_and_is_renewed_after_every_period():
    agent = make_tabular_agent(learning_rate=0.1, target_period=3)
    update, state = jax.jit(make_agent_update(agent)), agent.init(jax.random.key(0))
    acting, params = [agent.actor_params(state)["policy"]], [state.params["policy"]]
    for _ in range(7):
        state, _ = update(state, chain([2, 0], [1], [1.0]))
        acting.append(agent.actor_params(state)["policy"])
        params.append(state.params["policy"])
    expected = [params[0]] * 3 + [params[3]] * 3 + [params[6]] * 2
    for found, wanted in zip(acting, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert float(jnp.abs(params[3] - params[6]).max()) > 0.1


def test_passes_are_steps_on_one_batch_whose_advantages_stay():
    """They are updates from one batch, if the values are put back before each."""
    trajectory = chain([0, 1, 2, 3, 0], [1, 0, 1, 0], [2.0, -1.0, 0.5, 0.0])

    def run(num_updates, **config):
        agent = make_tabular_agent(learning_rate=0.1, target_period=100, **config)
        update, state = jax.jit(make_agent_update(agent)), agent.init(jax.random.key(0))
        for _ in range(num_updates):
            state = dataclasses.replace(state, params={**state.params, "value": jnp.zeros(4)})
            state, _ = update(state, trajectory)
        return state.params["policy"], state.extra["duals"]

    passes, updates = run(1, epochs=8), run(8)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), passes, updates)


def test_each_minibatch_has_a_better_half_of_its_own():
    """The second environment's rewards are lower than all of the first's: only alone is its better action imitated."""
    better, worse = chain([0, 1, 0], [1, 1], [9.0, 8.0]), chain([2, 3, 2], [1, 1], [1.0, 0.0])
    worse = dataclasses.replace(worse, env_index=np.ones(1, np.uint32))
    both = jax.tree.map(lambda a, b: np.concatenate([a, b], 0 if a.ndim == 1 else 1), better, worse)

    def preferred(minibatches):
        agent = make_tabular_agent(minibatches=minibatches, target_period=1)
        policy = run_updates(agent, agent.init(jax.random.key(0)), both, 1).extra["target"]["policy"]
        return np.asarray(policy[:, 1] > policy[:, 0] + 1e-3)

    np.testing.assert_array_equal(preferred(1), [True, True, False, False])
    np.testing.assert_array_equal(preferred(2), [True, False, True, False])


def test_a_bound_of_almost_zero_leaves_the_policy_where_it_is():
    trajectory = chain([2, 0], [1], [1.0])

    def moved(epsilon, kl_cost):
        agent = make_tabular_agent(0.003, dual_rate=1.0, kl_epsilon=epsilon, kl_cost=kl_cost, target_period=50)
        state = run_updates(agent, agent.init(jax.random.key(0)), trajectory, 300)
        return float(jnp.abs(agent.actor_params(state)["policy"]).max())

    assert moved(10.0, 1.0) > 0.4
    assert moved(1e-12, 1e3) < 0.04


def test_a_divergence_beyond_its_bound_raises_its_multiplier_and_one_within_lowers_it():
    target = {**NETWORK.init(None), "policy": jnp.zeros((4, 2)).at[2].set(jnp.array([0.0, 1.0]))}
    trajectory = chain([2, 0], [1], [0.0])
    for epsilon, sign in ((1e-3, 1), (10.0, -1)):
        agent = make_tabular_agent(kl_epsilon=epsilon, dual_rate=0.1, kl_cost=5.0)
        state = make_state(NETWORK.init(None), agent, target)
        after, metrics = jax.jit(make_agent_update(agent))(state, trajectory)
        assert float(metrics["policy/kl_cost_choices"]) == 5  # The one that this update used.
        change = float(after.extra["duals"]["kl_cost"]["choices"]) - 5
        assert change == pytest.approx(0.1 * sign, rel=1e-2)


def test_duals_stay_positive():
    agent = make_tabular_agent(dual_rate=1.0, kl_epsilon=10.0, temperature_epsilon=10.0)
    state = run_updates(agent, agent.init(jax.random.key(0)), chain([2, 0], [1], [1.0]), 40)
    for dual in jax.tree.leaves(state.extra["duals"]):
        assert LEAST_DUAL / 2 < float(dual) < 1e-3


def gaussian_network():
    """A mean and a raw scale in each of four states."""
    policy = make_gaussian(1, squash=False, initial_scale=1.0)

    def unroll(params, trajectory):
        state = trajectory.observation
        return NetworkOutput(policy=params["policy"][state], value=params["value"][state]), trajectory.carry

    return dataclasses.replace(NETWORK, policy=policy, unroll=unroll)


@pytest.mark.parametrize(("name", "other"), [("mean", "covariance"), ("covariance", "mean")])
def test_mean_and_covariance_are_held_by_multipliers_of_their_own(name, other):
    network = gaussian_network()
    trajectory = chain([2, 0], [1], [0.0])
    trajectory = dataclasses.replace(trajectory, action=np.zeros((1, 1, 1), np.float32))
    params = NETWORK.init(None)
    target = {**params, "policy": params["policy"] + 0.3}
    ones, zero = jnp.ones((1, 1)), jnp.zeros((1, 1))
    experience = Experience(trajectory=trajectory, values=zero, targets=zero, advantages=zero)
    weighted = Weighted(batch=experience, advantages=zero, selected=ones > 0, weights=zero)
    extra = {"target": target, "duals": {"kl_cost": {name: jnp.float32(2.0), other: jnp.float32(0.0)}}}
    slopes, metrics = jax.grad(
        lambda p: vmpo_loss(AgentConfig(**PLAIN), network, p, extra, weighted, jnp.float32(1)), has_aux=True
    )(params)
    mine, others = (0, 1) if name == "mean" else (1, 0)
    assert float(slopes["policy"][2, mine]) < -0.1
    assert float(slopes["policy"][2, others]) == 0
    assert float(metrics["loss/total"]) == pytest.approx(2 * float(metrics[f"policy/kl_{name}"]), rel=1e-5)


def test_popart_puts_advantages_into_the_units_of_the_targets_and_moves_no_value():
    agent = make_tabular_agent(learning_rate=1e-12, popart=PopArtConfig(enabled=True, rate=0.3))
    trajectory = chain([0, 1, 2, 3, 0], [1, 0, 1, 0], [200.0, -100.0, 300.0, 0.0])
    state = agent.init(jax.random.key(0))
    after, _ = jax.jit(make_agent_update(agent))(state, trajectory)
    popart = after.extra["popart"]
    assert float(popart.scale) > 50
    np.testing.assert_allclose(popart.unnormalize(after.params["value"]), np.zeros(4), atol=1e-4)
    config = AgentConfig(**{**PLAIN, "popart": PopArtConfig(enabled=True)})
    weighted = e_step(config, NETWORK, after, trajectory)
    np.testing.assert_allclose(weighted.advantages * popart.scale, trajectory.reward, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(popart.unnormalize(weighted.batch.targets), trajectory.reward, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"temperature": 0.0}, r"agent.temperature=0.0 must lie in \[1e-8, 1e6\]"),
        ({"top_fraction": 1.5}, r"agent.top_fraction=1.5 must lie in \[1e-6, 1\]"),
        ({"dual_optimizer": OptimizerConfig(learning_rate=-1.0)}, "agent.dual_optimizer.learning_rate=-1.0 must"),
        ({"popart": PopArtConfig(rate=2.0)}, r"agent.popart.rate=2.0 must lie in"),
    ],
)
def test_values_out_of_range_are_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        AgentConfig(**override)
