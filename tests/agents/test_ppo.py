import dataclasses

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.agents.ppo import AgentConfig, estimate_advantages, make_agent, ppo_loss
from podrl.config.config import ConfigError
from podrl.config.optimizer import OptimizerConfig
from tests.agents.test_impala import NUM_ACTIONS, around, chain, tabular_network
from tests.short_runs import make_agent as make_run_agent
from tests.short_runs import make_agent_update, make_config, random_trajectory, run


def on_policy(trajectory, values=0.0, logits=None):
    """The chain as PPO's actor records it; by default of the uniform policy, with zero values."""
    shape = trajectory.reward.shape
    policy = np.broadcast_to(np.asarray(0.0 if logits is None else logits, np.float32), (*shape, NUM_ACTIONS))
    behaviour = {"policy": policy, "value": np.full(shape, values, np.float32)}
    return dataclasses.replace(trajectory, behaviour=behaviour)


def gradient(trajectory, **config):
    network = tabular_network()
    params = network.init(None)
    defaults = {"value_cost": 0.0, "entropy_cost": 0.0, "discount": 0.9, "normalize_advantages": False}
    config = AgentConfig(minibatches=1, **defaults | config)
    count = np.sum(trajectory.is_transition, dtype=np.float32)

    @jax.jit
    def compute(params):
        experience = estimate_advantages(config, network, params, trajectory)
        return jax.grad(lambda p: ppo_loss(config, network, p, experience, count, config.clip)[0])(params)

    return jax.device_get(compute(params))


def test_reward_is_credited_to_the_action_that_earned_it():
    """Only action 1 in state 2 pays: one step moves the logits of state 2 towards it, and no other state's."""
    trajectory = on_policy(chain(states=[0, 1, 2, 3, 0], actions=[1, 0, 1, 0], rewards=[0, 0, 1, 0]))
    moved = -gradient(trajectory, lambda_=0.0)["policy"]
    assert moved[2, 1] > 0
    assert moved[2, 0] < 0
    np.testing.assert_array_equal(moved[[0, 1, 3]], 0)


def test_a_reset_row_is_not_credited_even_if_it_pays():
    trajectory = on_policy(chain([0, 1, 2, 3], [1, 1, 1], [0, 1, 0], first=[True, False, True, False]))
    np.testing.assert_array_equal(gradient(trajectory)["policy"], 0)


@pytest.mark.parametrize(("discount", "expected"), [(0.0, 0.0), (1.0, 0.9 * 10)])
def test_a_termination_does_not_bootstrap_and_a_truncation_does(discount, expected):
    # State 0, then the final observation 1, which the actor valued at 10, then a reset to 2.
    trajectory = on_policy(chain([0, 1, 2], [0, 0], [0, 0], first=[True, False, True], discount=[discount, 1.0]))
    trajectory.behaviour["value"] = np.array([[0.0], [10.0]], np.float32)
    assert -gradient(trajectory, value_cost=1.0)["value"][0] == pytest.approx(expected)


@pytest.mark.parametrize(("recompute", "expected"), [(False, [0.9 * 5 - 3, 0.9 * 40 - 5]), (True, [8.0, 16.0])])
def test_values_are_the_actors_or_the_learners_and_the_last_is_the_learners(recompute, expected):
    network = tabular_network()
    params = {**network.init(None), "value": jnp.array([10.0, 20.0, 40.0, 0.0])}
    trajectory = on_policy(chain([0, 1, 2], [0, 0], [0, 0]))
    trajectory.behaviour["value"] = np.array([[3.0], [5.0]], np.float32)
    config = AgentConfig(discount=0.9, lambda_=0.0, recompute_values=recompute, minibatches=1)
    experience = jax.jit(lambda params: estimate_advantages(config, network, params, trajectory))(params)
    np.testing.assert_allclose(np.asarray(experience.advantages)[:, 0], expected, rtol=1e-5)


def test_what_has_moved_far_enough_is_left_alone():
    """The policy acted with logits of its own: for the trained one, uniform, the ratio is outside the clip."""
    paid, fined = (on_policy(chain([2, 0], [1], [r]), logits=np.log([0.9, 0.1])) for r in (1.0, -1.0))
    np.testing.assert_array_equal(gradient(paid)["policy"], 0)  # The ratio is 5 already.
    assert gradient(fined)["policy"][2, 1] > 0


def update_once(config, trajectory, network=None):
    agent = make_agent(config, **around(network or tabular_network(), num_updates=4))
    state = jax.jit(agent.init)(jax.random.key(0))
    return jax.jit(make_agent_update(agent))(state, trajectory)


def columns(rewards):
    """One environment for each reward: in state 0 it takes action 1 and is paid."""
    parts = [on_policy(chain([0, 1], [1], [reward])) for reward in rewards]
    trajectory = jax.tree.map(lambda *xs: np.concatenate(xs, axis=min(1, xs[0].ndim - 1)), *parts)
    return dataclasses.replace(trajectory, env_index=np.arange(len(rewards), dtype=np.uint32))


def test_advantages_are_normalized_over_the_minibatch():
    """Neither the rewards' offset nor their scale reaches the policy."""
    config = AgentConfig(minibatches=1, epochs=1, value_cost=0.0, entropy_cost=0.0)
    trajectory = columns([1.0, 2.0, 3.0, 6.0])
    trajectory = dataclasses.replace(trajectory, action=np.array([[0, 0, 1, 1]], np.int32))
    changed = dataclasses.replace(trajectory, reward=10 * trajectory.reward + 100)
    (state, _), (same, _) = (update_once(config, part) for part in (trajectory, changed))
    assert abs(state.params["policy"]).max() > 1e-5
    np.testing.assert_allclose(state.params["policy"], same.params["policy"], rtol=1e-3)


@pytest.mark.parametrize("shuffle", ["environments", "time"])
def test_advantages_are_normalized_over_each_minibatch_whatever_its_size(shuffle):
    """The ratio stays one: the policy loss is minus the mean advantage, over two minibatches of 3 and 4 rows."""
    rewards, parts = np.random.default_rng(0).normal(size=(4, 2)), []
    for env in range(4):
        first = [True, False, env == 0]  # Environment 0 has a reset row.
        parts.append(on_policy(chain([0, 1, 2], [1, 0], rewards[env], first=first)))
    trajectory = jax.tree.map(lambda *xs: np.concatenate(xs, axis=min(1, xs[0].ndim - 1)), *parts)
    trajectory = dataclasses.replace(trajectory, env_index=np.arange(4, dtype=np.uint32))
    network = tabular_network()
    config = AgentConfig(minibatches=2, epochs=1, optimizer=OptimizerConfig(learning_rate=1e-12), shuffle=shuffle)
    rows = lambda params, trajectory, rows: network.step(params, timestep_rows(trajectory, rows), ())[0]  # noqa: E731
    _, metrics = update_once(config, trajectory, dataclasses.replace(network, rows=rows))
    assert metrics["policy/rho"] == pytest.approx(1, abs=1e-6)
    assert metrics["loss/policy"] == pytest.approx(0, abs=1e-6)


def timestep_rows(trajectory, rows):
    """What a network of states needs of some rows."""
    observation = jnp.take_along_axis(trajectory.observation, rows, axis=0)
    return dataclasses.replace(trajectory, observation=observation)


def test_the_learning_rate_and_the_clip_decay_to_zero():
    """The ratio is 1.1 throughout: within the first clips, 0.2 and 0.15, and outside the last, 0.05."""
    config = AgentConfig(
        optimizer=OptimizerConfig(learning_rate=1e-6), epochs=2, minibatches=1, clip=0.2, clip_decay=True
    )
    agent = make_agent(config, **around(tabular_network(), num_updates=4))
    trajectory = on_policy(chain([0, 1], [1], [1.0]), logits=np.log(np.array([0.6, 0.5]) / 1.1))
    state, found, update = jax.jit(agent.init)(jax.random.key(0)), [], jax.jit(make_agent_update(agent))
    for _ in range(4):
        state, metrics = update(state, trajectory)
        found.append((float(metrics["loss/learning_rate"]), float(metrics["policy/clip_fraction"])))
    rates, fractions = zip(*found, strict=True)
    np.testing.assert_allclose(rates, [1e-6, 0.75e-6, 0.5e-6, 0.25e-6], rtol=1e-5)
    assert (fractions[0], fractions[1], fractions[3]) == (0, 0, 1)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            {"optimizer": OptimizerConfig(learning_rate=-1.0)},
            r"agent.optimizer.learning_rate=-1.0 must lie in \[1e-12, 10\]",
        ),
        ({"lambda_": 1.5}, r"agent.lambda_=1.5 must lie in \[0, 1\]"),
        ({"shuffle": "envs"}, "agent.shuffle='envs' is not known; did you mean 'environments'"),
        ({"epochs": 0}, "agent.epochs=0 must lie in "),
    ],
)
def test_values_out_of_range_are_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        AgentConfig(**override)


def test_rows_of_a_network_that_cannot_evaluate_them_apart_are_not_shuffled():
    network = dataclasses.replace(tabular_network(), rows=None)
    with pytest.raises(ConfigError, match=r"agent.shuffle='time' needs a network that can evaluate a row without"):
        make_agent(AgentConfig(shuffle="time"), **around(network, num_updates=1))


SHUFFLES = pytest.mark.parametrize("shuffle", ["environments", "time"])


ROLLED = {"topology__micro_batches": 4, "topology__micro_batch_loop": "rolled"}


def test_ways_to_compute_the_same_update_agree():
    """With one minibatch there is nothing to shuffle: neither its rows nor parts nor loops make a difference."""
    results = []
    for changes in (
        {},
        {"agent__shuffle": "time", "topology__micro_batches": 2},
        {"topology__step_loop": "unrolled"},
        ROLLED,
    ):
        options = {"agent__epochs": 2, "agent__minibatches": 1} | changes
        agent, spec = make_run_agent(make_config(agent="ppo", **options))
        state, metrics = jax.jit(make_agent_update(agent))(
            jax.jit(agent.init)(jax.random.key(0)), random_trajectory(agent, spec, 4, 8)
        )
        results.append((state.params, metrics))
    for params, metrics in results[1:]:
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), params, results[0][0])
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5), metrics, results[0][1])


@SHUFFLES
def test_every_update_shuffles_anew(shuffle):
    """Nothing but the key differs, and it moves on."""
    config = make_config(agent="ppo", agent__shuffle=shuffle)
    agent, spec = make_run_agent(config)
    trajectory, state = random_trajectory(agent, spec, 4, 8), jax.jit(agent.init)(jax.random.key(0))
    update = jax.jit(make_agent_update(agent))
    after, _ = update(state, trajectory)
    again, _ = update(state, trajectory)
    other, _ = update(dataclasses.replace(state, key=after.key), trajectory)
    jax.tree.map(np.testing.assert_array_equal, after.params, again.params)
    assert any(
        (x != y).any() for x, y in zip(jax.tree.leaves(after.params), jax.tree.leaves(other.params), strict=True)
    )


def test_a_rollout_may_have_fewer_rows_than_there_are_minibatches():
    agent, spec = make_run_agent(make_config(agent="ppo", agent__recompute_values=True, agent__minibatches=4))
    trajectory = random_trajectory(agent, spec, 2, 8)
    _, metrics = jax.jit(make_agent_update(agent))(jax.jit(agent.init)(jax.random.key(0)), trajectory)
    assert np.isfinite(metrics["loss/total"])


def test_with_lag_zero_the_learner_starts_from_what_the_actors_recorded():
    """The ratio is one at the only step of each update, and values are the same if computed again."""
    options = {
        "actors__lag": 0,
        "agent__epochs": 1,
        "agent__minibatches": 1,
        "agent__optimizer__learning_rate": 0.01,
    }
    recorded, recomputed = (
        run(make_config(agent="ppo", total_env_steps=5 * 8 * 4, agent__recompute_values=recompute, **options))[1]
        for recompute in (False, True)
    )
    for row, same in zip(recorded, recomputed, strict=True):
        assert row["policy/kl_to_behaviour"] == pytest.approx(0, abs=1e-6)
        assert row["policy/rho"] == pytest.approx(1, abs=1e-5)
        assert same["value/mean"] == pytest.approx(row["value/mean"], rel=1e-3)
