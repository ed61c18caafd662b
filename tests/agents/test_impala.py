import dataclasses

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.agents.impala import AgentConfig, impala_loss, make_agent
from podrl.config.config import ConfigError
from podrl.config.optimizer import OptimizerConfig
from podrl.config.popart import PopArtConfig
from podrl.networks.interface import Network, NetworkOutput, Networks
from podrl.ops.categorical import make_categorical
from podrl.ops.popart import PopArt
from podrl.types import Trajectory
from tests.short_runs import make_agent_update

NUM_STATES, NUM_ACTIONS = 4, 2


def tabular_network():
    """One row of logits and one value per state, all zero at first; observations are state indices."""

    def init(key):
        return {"policy": jnp.zeros((NUM_STATES, NUM_ACTIONS)), "value": jnp.zeros(NUM_STATES)}

    def step(params, timestep, carry):
        state = timestep.observation
        return NetworkOutput(policy=params["policy"][state], value=params["value"][state]), carry

    def unroll(params, trajectory):
        return step(params, trajectory, trajectory.carry)

    def scale_value(params, factor, shift):
        return {**params, "value": params["value"] * factor + shift}

    return Network(
        policy=make_categorical(NUM_ACTIONS),
        init=init,
        initial_carry=lambda batch_size: (),
        step=step,
        unroll=unroll,
        scale_value=scale_value,
    )


def networks_of(**made):
    """Networks of which only some can be asked for."""
    return Networks(**{field.name: made.get(field.name) for field in dataclasses.fields(Networks)})


def around(network, num_updates):
    """What `make_agent` takes besides a config, of an agent with this network."""
    networks = networks_of(actor_critic=lambda: network, q=lambda **asked: network)
    return {"networks": networks, "spec": None, "num_envs": 1, "num_updates": num_updates}


def chain(states, actions, rewards, first=None, discount=None):
    """A trajectory [T, 1] of the uniform policy on given states."""
    length = len(actions)
    column = [first or [True] + [False] * length, discount or [1.0] * length]
    return Trajectory(
        observation=np.asarray(states, np.int32)[:, None],
        first=np.asarray(column[0])[:, None],
        action=np.asarray(actions, np.int32)[:, None],
        reward=np.asarray(rewards, np.float32)[:, None],
        discount=np.asarray(column[1], np.float32)[:, None],
        behaviour={"policy": np.zeros((length, 1, NUM_ACTIONS), np.float32)},
        carry=(),
        opening_reward=np.zeros(1, np.float32),
        env_index=np.zeros(1, np.uint32),
        params_version=np.zeros((length, 1), np.int32),
    )


def gradient(trajectory, **config):
    network = tabular_network()
    params = network.init(None)
    config = AgentConfig(**{"value_cost": 0.0, "entropy_cost": 0.0, "discount": 0.0, **config})
    count = np.sum(trajectory.is_transition, dtype=np.float32)
    return jax.jit(jax.grad(lambda p: impala_loss(config, network, p, trajectory, count)[0]))(params)


def test_reward_is_credited_to_the_action_that_earned_it():
    """Only action 1 in state 2 pays: one step moves the logits of state 2 towards it, and no other state's."""
    moved = -np.asarray(gradient(chain(states=[0, 1, 2, 3, 0], actions=[1, 0, 1, 0], rewards=[0, 0, 1, 0]))["policy"])
    assert moved[2, 1] > 0
    assert moved[2, 0] < 0
    np.testing.assert_array_equal(moved[[0, 1, 3]], 0)


def test_a_reset_row_is_not_credited_even_if_it_pays():
    trajectory = chain([0, 1, 2, 3], [1, 1, 1], [0, 1, 0], first=[True, False, True, False])
    np.testing.assert_array_equal(gradient(trajectory)["policy"], 0)


def test_a_termination_does_not_bootstrap_and_a_truncation_does():
    config = AgentConfig(discount=0.9, entropy_cost=0.0, value_cost=1.0)
    network = tabular_network()
    params = {**network.init(None), "value": jnp.array([0.0, 10.0, 0.0, 0.0])}

    def value_gradient(discount):
        # State 0, then the final observation 1, then a reset to 2.
        trajectory = chain([0, 1, 2], [0, 0], [0, 0], first=[True, False, True], discount=[discount, 1.0])
        return jax.jit(jax.grad(lambda p: impala_loss(config, network, p, trajectory, 1.0)[0]))(params)["value"]

    assert value_gradient(0.0)[0] == 0  # target 0, value 0
    assert value_gradient(1.0)[0] == pytest.approx(-9.0)  # target 0.9 * 10


def test_the_loss_is_a_mean_so_a_batch_twice_over_gives_the_same_gradient():
    once = chain([0, 1, 2, 3], [1, 0, 1], [1, 0, 2])
    twice = once.map(lambda x: np.concatenate([x, x], axis=1), lambda x: np.concatenate([x, x]))
    for x, y in zip(jax.tree.leaves(gradient(once)), jax.tree.leaves(gradient(twice)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)


def test_off_policy_actions_are_weighted_by_the_clipped_ratio():
    trajectory = chain([2, 0], [1], [1.0])
    rare = dataclasses.replace(trajectory, behaviour={"policy": np.log(np.array([[[0.1, 0.9]]], np.float32))})
    common = dataclasses.replace(trajectory, behaviour={"policy": np.log(np.array([[[0.9, 0.1]]], np.float32))})
    on_policy = np.asarray(gradient(trajectory)["policy"])[2]
    np.testing.assert_allclose(np.asarray(gradient(rare)["policy"])[2], on_policy * 0.5 / 0.9, rtol=1e-5)
    np.testing.assert_allclose(
        np.asarray(gradient(common)["policy"])[2], on_policy, rtol=1e-6
    )  # 0.5 / 0.1 is clipped to 1


def test_rewards_are_scaled_and_clipped_by_the_agent():
    big = gradient(chain([2, 0], [1], [50.0]), max_reward=1.0)["policy"]
    one = gradient(chain([2, 0], [1], [1.0]))["policy"]
    np.testing.assert_allclose(big, one, rtol=1e-6)
    np.testing.assert_allclose(gradient(chain([2, 0], [1], [50.0]), reward_scale=0.02)["policy"], one, rtol=1e-6)


class TestPopArt:
    """With a learning rate of almost zero, where only the statistics move the parameters."""

    def agent(self, rate=0.1, learning_rate=1e-12, **config):
        popart = PopArtConfig(enabled=True, rate=rate)
        optimizer = OptimizerConfig(learning_rate=learning_rate)
        config = AgentConfig(**{"popart": popart, "optimizer": optimizer, **config})
        return make_agent(config, **around(tabular_network(), num_updates=1000))

    def test_no_value_changes_when_the_statistics_move(self):
        agent = self.agent()
        state = agent.init(jax.random.key(0))
        state = dataclasses.replace(state, params={**state.params, "value": jnp.array([1.0, -2.0, 3.0, 0.5])})
        update, trajectory = jax.jit(make_agent_update(agent)), chain([0, 1, 2, 3], [1, 0, 1], [100, 0, -50])
        after, metrics = update(state, trajectory)
        popart = after.extra["popart"]
        assert float(popart.scale) > 5
        assert float(metrics["value/scale"]) == 1  # That of the steps.
        assert float(jnp.abs(after.params["value"] - state.params["value"]).max()) > 1
        np.testing.assert_allclose(popart.unnormalize(after.params["value"]), state.params["value"], atol=1e-5)
        assert float(update(after, trajectory)[1]["value/mean"]) == pytest.approx(
            float(metrics["value/mean"]), abs=1e-5
        )

    def test_values_are_learned_in_the_units_of_the_return(self):
        """A reward of 300 each time, after which the episode ends."""
        agent = self.agent(rate=0.005, learning_rate=0.05, discount=0.9, entropy_cost=0.0)
        trajectory = chain([2, 1], [1], [300.0], discount=[0.0])
        update = make_agent_update(agent)
        learn = jax.jit(lambda state: jax.lax.fori_loop(0, 1000, lambda _, s: update(s, trajectory)[0], state))
        state = learn(agent.init(jax.random.key(0)))
        assert float(state.extra["popart"].unnormalize(state.params["value"])[2]) == pytest.approx(300, rel=1e-2)

    def test_the_scale_of_rewards_does_not_change_what_the_policy_learns_once_it_is_known(self):
        """A gradient in units of the targets' scale is the same for rewards of any scale."""
        network, params = tabular_network(), tabular_network().init(None)

        def policy_gradient(scale):
            popart = PopArt(mean=jnp.float32(0), variance=jnp.float32(scale**2), scale=jnp.float32(scale))
            trajectory = chain([0, 1, 2], [1, 0], [3.0 * scale, -1.0 * scale])
            config = AgentConfig(entropy_cost=0.0, discount=0.0)
            return jax.grad(lambda p: impala_loss(config, network, p, trajectory, 2.0, popart)[0])(params)

        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), policy_gradient(1.0), policy_gradient(64.0)
        )

    def test_without_it_the_state_has_no_trace_of_it(self):
        agent = make_agent(AgentConfig(), **around(tabular_network(), num_updates=10))
        state, metrics = make_agent_update(agent)(agent.init(jax.random.key(0)), chain([0, 1], [1], [1.0]))
        assert state.extra == ()
        assert not {"value/scale", "value/normalized_target"} & set(metrics)


def test_the_learning_rate_decays_to_zero():
    agent = make_agent(
        AgentConfig(optimizer=OptimizerConfig(learning_rate=0.1)), **around(tabular_network(), num_updates=4)
    )
    state, rates, update = agent.init(jax.random.key(0)), [], jax.jit(make_agent_update(agent))
    for _ in range(4):
        state, metrics = update(state, chain([0, 1], [1], [1.0]))
        rates.append(float(metrics["loss/learning_rate"]))
    np.testing.assert_allclose(rates, [0.1, 0.075, 0.05, 0.025], rtol=1e-6)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            {"optimizer": OptimizerConfig(learning_rate=-1.0)},
            r"agent.optimizer.learning_rate=-1.0 must lie in \[1e-12, 10\]",
        ),
        ({"discount": 1.5}, r"agent.discount=1.5 must lie in \[0, 1\]"),
        ({"popart": PopArtConfig(rate=0.0)}, r"agent.popart.rate=0.0 must lie in \[1e-9, 1\]"),
        (
            {"popart": PopArtConfig(min_scale=2, max_scale=1)},
            "agent.popart.min_scale=2 is above agent.popart.max_scale",
        ),
        ({"optimizer": OptimizerConfig(name="adm")}, "agent.optimizer.name='adm' is not known; did you mean 'adam'"),
    ],
)
def test_values_out_of_range_are_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        AgentConfig(**override)
