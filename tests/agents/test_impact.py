import dataclasses

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.agents import ppo
from podrl.agents.impact import AgentConfig, adapt_kl_cost, impact_loss, impact_ratios, make_agent
from podrl.agents.parts.interface import Batch, Sample
from podrl.config.optimizer import OptimizerConfig
from podrl.networks.available import make_networks
from podrl.ops.vtrace import vtrace
from tests.agents.test_impala import around, chain, tabular_network
from tests.short_runs import make_agent as make_run_agent
from tests.short_runs import make_agent_update, make_config, random_trajectory

NETWORK = tabular_network()
PLAIN = {"value_cost": 0.0, "entropy_cost": 0.0, "discount": 0.0}


def make_params(policy=0.0, value=0.0):
    fresh = NETWORK.init(None)
    return {"policy": fresh["policy"] + jnp.asarray(policy), "value": fresh["value"] + jnp.asarray(value)}


def gradient(trajectory, params=None, target=None, kl_cost=0.0, **config):
    config = AgentConfig(**{**PLAIN, "kl_cost": kl_cost, **config})
    params = make_params() if params is None else params
    extra = {"target": params if target is None else target, "kl_cost": jnp.float32(kl_cost)}
    count = np.sum(trajectory.is_transition, dtype=np.float32)
    return jax.jit(jax.grad(lambda p: impact_loss(config, NETWORK, p, extra, trajectory, count)[0]))(params)


def logits(probability):
    """Of action 1, in every state."""
    return jnp.log(jnp.array([1 - probability, probability]))


def acted_with(trajectory, probability):
    rows = trajectory.action.shape
    return dataclasses.replace(trajectory, behaviour={"policy": jnp.broadcast_to(logits(probability), (*rows, 2))})


@pytest.mark.parametrize("lambda_", [1.0, 0.9])
def test_where_the_three_policies_are_one_the_gradient_is_ppos(lambda_):
    """Of a random network and trajectory with resets, terminations and truncations."""
    config = make_config(network__separate_value=True)
    agent, spec = make_run_agent(config)
    trajectory = random_trajectory(agent, spec, length=7, num_envs=4)
    network = make_networks(config.network, spec).actor_critic()
    params = network.init(jax.random.key(2))
    output, _ = network.unroll(params, trajectory)
    trajectory = dataclasses.replace(trajectory, behaviour={"policy": output.policy[:-1], "value": output.value[:-1]})
    count = jnp.sum(trajectory.is_transition, dtype=jnp.float32)
    shared = {"lambda_": lambda_, "discount": 0.97, "entropy_cost": 0.02, "value_cost": 0.7, "reward_scale": 0.5}
    ours, theirs = AgentConfig(**shared), ppo.AgentConfig(**shared, minibatches=1, normalize_advantages=False)
    extra = {"target": params, "kl_cost": jnp.float32(0)}

    def impact(params):
        return impact_loss(ours, network, params, extra, trajectory, count)[0]

    experience = ppo.estimate_advantages(theirs, network, params, trajectory)

    def proximal(params):
        return ppo.ppo_loss(theirs, network, params, experience, count, theirs.clip)[0]

    found, expected = (jax.jit(jax.grad(loss))(params) for loss in (impact, proximal))
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(found)) > 1e-3
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("learned", "target", "acted", "ratio"),
    [
        (0.5, 0.5, 0.25, 1.0),  # theta over target, whatever acted
        (0.6, 0.5, 0.25, 1.2),
        (0.6, 0.5, 0.9, 1.2),  # 0.9 / 0.5 is below 2
        (0.6, 0.3, 0.9, 2 * 0.6 / 0.9),  # w over target is 3, clipped to 2
        (0.6, 0.9, 0.3, 0.6 / 0.9),  # its inverse is 3, and not clipped
    ],
)
def test_the_ratio_clips_the_worker_over_the_target_and_not_its_inverse(learned, target, acted, ratio):
    found = impact_ratios(*(jnp.log(jnp.float32(p)) for p in (learned, target, acted)), 2.0)
    assert float(found) == pytest.approx(ratio, rel=1e-5)


def test_ratios_never_overflow_to_nan():
    rare, certain = jnp.float32(-200.0), jnp.float32(0.0)
    assert float(impact_ratios(rare, rare, certain, 2.0)) == 0
    gradients = jax.grad(lambda log: impact_ratios(log, certain, rare, 2.0))(certain)
    assert float(gradients) == pytest.approx(1.0)


def test_advantages_and_values_are_v_traces_for_the_target():
    """The target takes action 1 with 0.5 and the worker took it with 0.9: the reward counts by 0.5 / 0.9."""
    trajectory = acted_with(chain([2, 0], [1], [1.0]), 0.9)
    moved = -gradient(trajectory, value_cost=1.0)["value"]
    assert float(moved[2]) == pytest.approx(0.5 / 0.9, rel=1e-5)
    policy = -np.asarray(gradient(trajectory)["policy"])[2]
    np.testing.assert_allclose(policy, 0.5 / 0.9 * np.array([-0.5, 0.5]), rtol=1e-5)  # R is theta / target = 1.
    log_rhos = jnp.log(jnp.float32(0.5 / 0.9))
    returns = vtrace(jnp.zeros((2, 1)), jnp.ones((1, 1)), jnp.zeros((1, 1)), jnp.exp(log_rhos) * jnp.ones((1, 1)))
    assert float(returns.targets[0, 0]) == pytest.approx(0.5 / 0.9, rel=1e-5)


def test_beyond_the_clip_around_the_target_nothing_is_gained():
    """However far theta is from the policy that acted; without the clip the same step would go on."""
    trajectory = acted_with(chain([2, 0], [1], [1.0]), 0.3)
    far, target = make_params(policy=logits(0.8)), make_params(policy=logits(0.5))
    np.testing.assert_array_equal(gradient(trajectory, far, target, clip=0.4)["policy"], 0)
    assert float(gradient(trajectory, far, target, clip=0.7)["policy"][2, 1]) < 0
    near = make_params(policy=logits(0.6))
    assert float(gradient(trajectory, near, target, clip=0.4)["policy"][2, 1]) < 0


def test_the_divergence_pulls_back_to_the_target_and_its_weight_adapts():
    trajectory = chain([2, 0], [1], [0.0])
    far, target = make_params(policy=logits(0.8)), make_params(policy=logits(0.5))
    assert float(gradient(trajectory, far, target)["policy"][2, 1]) == 0
    assert float(gradient(trajectory, far, target, kl_cost=1.0)["policy"][2, 1]) == pytest.approx(0.3, rel=1e-5)
    config = AgentConfig(kl_cost=1.0, kl_target=0.01)
    costs = [float(adapt_kl_cost(config, jnp.float32(1.0), jnp.float32(kl))) for kl in (0.0049, 0.0051, 0.0199, 0.0201)]
    assert costs == [0.5, 1.0, 1.0, 1.5]
    assert float(adapt_kl_cost(config, jnp.float32(0.0), jnp.float32(1.0))) == 0
    assert float(adapt_kl_cost(config, jnp.float32(9e3), jnp.float32(1.0))) == pytest.approx(1e4)


def make_tabular_agent(**config):
    optimizer = OptimizerConfig(name="adam", learning_rate=0.1)
    return make_agent(AgentConfig(**PLAIN, optimizer=optimizer, **config), **around(NETWORK, 10))


def test_the_target_is_a_copy_of_the_parameters_after_every_period_and_else_stays():
    agent = make_tabular_agent(target_period=3)
    update, state = jax.jit(make_agent_update(agent)), agent.init(jax.random.key(0))
    targets, params = [state.extra["target"]["policy"]], [state.params["policy"]]
    for _ in range(7):
        state, _ = update(state, chain([2, 0], [1], [1.0]))
        targets.append(state.extra["target"]["policy"])
        params.append(state.params["policy"])
    expected = [params[0]] * 3 + [params[3]] * 3 + [params[6]] * 2
    for found, wanted in zip(targets, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert float(jnp.abs(params[3] - params[6]).max()) > 0


def test_the_target_gets_no_gradient_and_acts_nowhere():
    agent = make_tabular_agent()
    state = agent.init(jax.random.key(0))
    batch = Batch(rollouts=Sample(trajectory=chain([2, 0], [1], [1.0]), weight=jnp.ones(1)))
    learned, metrics, priority = jax.jit(agent.learn)(state, batch)
    np.testing.assert_array_equal(learned.extra["target"]["policy"], state.params["policy"])
    assert priority is None
    assert {"loss/kl_cost", "policy/kl"} <= set(metrics)
    np.testing.assert_array_equal(agent.actor_params(learned)["policy"], learned.params["policy"])


def test_a_learning_rate_that_decays_goes_by_updates_however_often_they_learn():
    optimizer = OptimizerConfig(name="adam", learning_rate=0.1, learning_rate_decay=True)
    agent = make_agent(AgentConfig(**PLAIN, optimizer=optimizer, minibatches=1), **around(NETWORK, 10))
    state = dataclasses.replace(agent.init(jax.random.key(0)), step=jnp.int32(5), learner_step=jnp.int32(100))
    batch = Batch(rollouts=Sample(trajectory=chain([2, 0], [1], [1.0]), weight=jnp.ones(1)))
    learned, metrics, _ = jax.jit(agent.learn)(state, batch)
    assert float(metrics["loss/learning_rate"]) == pytest.approx(0.05)
    moved = jnp.abs(learned.params["policy"] - state.params["policy"]).max()
    assert float(moved) == pytest.approx(0.05, rel=1e-3)  # Adam's first step.
