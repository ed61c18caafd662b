import dataclasses

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.actions import DiscreteActions
from podrl.agents.pqn import AgentConfig, estimate_targets, make_agent, pqn_loss
from podrl.config.config import ConfigError
from podrl.config.optimizer import OptimizerConfig
from podrl.networks.interface import NetworkFunctions, QOutput
from podrl.types import EnvSpec, Timestep
from tests.agents.test_impala import NUM_ACTIONS, NUM_STATES, around, chain
from tests.agents.test_sums import episodes_of_a_cycle, random_case, values_in_a_cycle
from tests.learning.test_learner import assert_params_close
from tests.learning.test_sharding import FSDP, TENSOR, WHOLE, train, wide_config
from tests.short_runs import make_agent as make_run_agent
from tests.short_runs import make_agent_update, make_config, random_trajectory

SPEC = EnvSpec(id="table", observation=jax.ShapeDtypeStruct((), jnp.int32), actions=DiscreteActions(NUM_ACTIONS))


def table_of_values():
    """One value for each state and action, zero at first; observations are indices of states."""

    def init(key):
        return {"q": jnp.zeros((NUM_STATES, NUM_ACTIONS))}

    def step(params, timestep, carry):
        return QOutput(q_values=params["q"][timestep.observation]), carry

    def unroll(params, trajectory):
        return step(params, trajectory, trajectory.carry)

    return NetworkFunctions(init=init, initial_carry=lambda batch_size: (), step=step, unroll=unroll)


def make_table_agent(config, num_updates=4, network=None):
    return make_agent(config, **{**around(network or table_of_values(), num_updates), "spec": SPEC})


def recorded(trajectory, values):
    return dataclasses.replace(trajectory, behaviour={"value": np.asarray(values, np.float32)})


def loss_and_gradient(config, params, trajectory):
    network, count = table_of_values(), np.sum(trajectory.is_transition, dtype=np.float32)

    @jax.jit
    def compute(params):
        experience = estimate_targets(config, network, params, trajectory)
        return jax.value_and_grad(lambda p: pqn_loss(network, p, experience, count)[0])(params)

    loss, gradient = jax.device_get(compute(params))
    return loss, gradient["q"]


def test_the_loss_by_hand():
    """The actor's values are 7 and 3; behind the last row the learner's own count, of which the larger is 8."""
    trajectory = recorded(chain([0, 1, 2], [1, 0], [1.0, 2.0]), [[7.0], [3.0]])
    params = {"q": jnp.array([[0.0, 10.0], [5.0, 0.0], [4.0, 8.0], [0.0, 0.0]])}
    last = 2 + 0.5 * 8
    first = 1 + 0.5 * (0.75 * 3 + 0.25 * last)
    loss, gradient = loss_and_gradient(AgentConfig(discount=0.5, lambda_=0.25, minibatches=1), params, trajectory)
    assert loss == pytest.approx(((first - 10) ** 2 + (last - 5) ** 2) / 2 / 2)
    expected = np.zeros((NUM_STATES, NUM_ACTIONS))
    expected[0, 1], expected[1, 0] = (10 - first) / 2, (5 - last) / 2
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_of_whole_unrolls_is_the_papers_sum(seed):
    """In float64, with terminations, truncations and reset rows; rewards are scaled and clipped."""
    config = AgentConfig(discount=0.9, lambda_=0.7, minibatches=1, reward_scale=2.0, max_reward=1.5)
    _, trajectory = random_case(seed)
    table = np.random.default_rng(seed).normal(size=(NUM_STATES, NUM_ACTIONS)).astype(np.float32)
    states, is_real = trajectory.observation, np.asarray(trajectory.is_transition)
    values = np.concatenate([trajectory.behaviour["value"], table[states[-1]].max(axis=-1)[None]]).astype(np.float64)
    rewards = np.clip(2.0 * np.float64(trajectory.reward), -1.5, 1.5)
    length, num_envs = rewards.shape
    targets = values.copy()
    for b in range(num_envs):
        for t in reversed(range(length)):
            if is_real[t, b]:
                looked_on = 0.3 * values[t + 1, b] + 0.7 * targets[t + 1, b]
                targets[t, b] = rewards[t, b] + 0.9 * trajectory.discount[t, b] * looked_on
    loss, gradient = 0.0, np.zeros((NUM_STATES, NUM_ACTIONS))
    for t, b in np.argwhere(is_real):
        place = (states[t, b], trajectory.action[t, b])
        error = table[place] - targets[t, b]
        loss += error**2 / 2 / is_real.sum()
        gradient[place] += error / is_real.sum()
    found = loss_and_gradient(config, {"q": jnp.asarray(table)}, trajectory)
    np.testing.assert_allclose(found[0], loss, rtol=2e-5)
    np.testing.assert_allclose(found[1], gradient, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("truncate", [True, False])
def test_the_learned_value_looks_beyond_a_time_limit_and_not_beyond_a_termination(truncate):
    """Each step pays 1; see `tests/agents/test_sums.py`. Actors record what the newest parameters say."""
    trajectory, updates = episodes_of_a_cycle(truncate), 2000
    trajectory = dataclasses.replace(trajectory, action=np.zeros_like(trajectory.action))
    optimizer = OptimizerConfig(learning_rate=0.1, max_grad_norm=1e3)
    agent = make_table_agent(AgentConfig(discount=0.9, epochs=1, minibatches=1, optimizer=optimizer), updates)
    update = make_agent_update(agent)

    def act_and_learn(_, state):
        values = jnp.max(state.params["q"][trajectory.observation[:-1]], axis=-1)
        return update(state, dataclasses.replace(trajectory, behaviour={"value": values}))[0]

    learn = jax.jit(lambda state: jax.lax.fori_loop(0, updates, act_and_learn, state))
    learned = learn(agent.init(jax.random.key(0))).params["q"][:, 0]
    np.testing.assert_allclose(learned, values_in_a_cycle(0.9, truncate), rtol=5e-3)


def test_the_learning_rate_and_epsilon_fall_over_the_run():
    config = AgentConfig(
        optimizer=OptimizerConfig(name="radam", learning_rate=1e-6), minibatches=1, epsilon_end=0.1, epsilon_decay=0.5
    )
    agent = make_table_agent(config, num_updates=8)
    trajectory = recorded(chain([0, 1], [1], [1.0]), [[0.0]])
    state, found, update = jax.jit(agent.init)(jax.random.key(0)), [], jax.jit(make_agent_update(agent))
    for _ in range(8):
        acting = float(agent.actor_params(state)["epsilon"])
        state, metrics = update(state, trajectory)
        assert acting == pytest.approx(float(metrics["policy/epsilon"]), rel=1e-6)
        found.append((float(metrics["loss/learning_rate"]), acting))
    rates, epsilons = zip(*found, strict=True)
    np.testing.assert_allclose(rates, 1e-6 * (1 - np.arange(8) / 8), rtol=1e-5)
    np.testing.assert_allclose(epsilons, [1.0, 0.775, 0.55, 0.325, 0.1, 0.1, 0.1, 0.1], rtol=1e-5)


def test_actors_explore_less_as_epsilon_falls_and_evaluations_never():
    agent, num = make_table_agent(AgentConfig(epsilon_end=0.1), num_updates=100), 4000
    state = agent.init(jax.random.key(0))
    state = dataclasses.replace(state, params={"q": jnp.array([[0.0, 3.0]] * NUM_STATES)})
    zeros = np.zeros(num, np.float32)
    timestep = Timestep(observation=np.zeros(num, np.int32), reward=zeros, discount=zeros, first=zeros > 0)
    keys = jax.random.split(jax.random.key(1), num)
    for step, share in ((0, 0.5), (5, 0.55 / 2), (100, 0.1 / 2)):
        params = agent.actor_params(dataclasses.replace(state, step=jnp.asarray(step, jnp.int32)))
        actions, behaviour, _ = agent.act(params, timestep, (), keys)
        assert np.mean(actions == 0) == pytest.approx(share, abs=0.03)
        np.testing.assert_array_equal(behaviour["value"], 3.0)
        greedy, _ = agent.act_greedy(params, timestep, (), keys)
        np.testing.assert_array_equal(greedy, 1)


def test_ways_to_compute_the_same_update_agree():
    """With one minibatch there is nothing to shuffle: neither its rows nor parts nor loops make a difference."""
    results = []
    for changes in (
        {},
        {"agent__shuffle": "time", "topology__micro_batches": 2},
        {"topology__step_loop": "unrolled", "topology__micro_batches": 4, "topology__micro_batch_loop": "rolled"},
    ):
        agent, spec = make_run_agent(make_config(agent="pqn", **{"agent__minibatches": 1} | changes))
        state, metrics = jax.jit(make_agent_update(agent))(
            jax.jit(agent.init)(jax.random.key(0)), random_trajectory(agent, spec, 4, 8)
        )
        results.append((state.params, metrics))
    for params, metrics in results[1:]:
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), params, results[0][0])
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5), metrics, results[0][1])


@pytest.mark.parametrize("split", [FSDP, TENSOR], ids=["fsdp", "tensor"])
def test_four_devices_learn_what_one_does_where_they_split_parameters(split, one_device):
    state, metrics = train(wide_config(agent="pqn", **split))
    assert_params_close(jax.device_get(state.params), one_device[0], rtol=1e-4)
    assert metrics["loss/total"] == pytest.approx(one_device[1]["loss/total"], rel=1e-3)


@pytest.fixture(scope="module")
def one_device():
    state, metrics = train(wide_config(agent="pqn", **WHOLE))
    return jax.device_get(state.params), metrics


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"epsilon_start": 1.5}, r"agent.epsilon_start=1.5 must lie in \[0, 1\]"),
        ({"epsilon_decay": 0.0}, r"agent.epsilon_decay=0.0 must lie in \[1e-6, 1\]"),
        ({"normalization": "batch"}, "agent.normalization='batch' is not known.* Available: layer, none"),
        ({"shuffle": "rows"}, "agent.shuffle='rows' is not known"),
    ],
)
def test_values_out_of_range_are_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        AgentConfig(**override)


def test_rows_of_a_network_that_cannot_evaluate_them_apart_are_not_shuffled():
    with pytest.raises(ConfigError, match=r"agent.shuffle='time' needs a network that can evaluate a row without"):
        make_table_agent(AgentConfig(shuffle="time"))
