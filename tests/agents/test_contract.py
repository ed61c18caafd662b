"""What every agent in `podrl/agents/` owes the rest of podrl. A new agent gets all of these for nothing.

`tests/agents/minimal.py` is here too: what it does without, no agent needs.
"""

import dataclasses
import importlib
import pkgutil

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl import agents
from podrl.config import NetworkConfig
from podrl.networks import make_network
from podrl.nonfinite import CHECKED
from podrl.types import ContinuousActions, DiscreteActions, EnvSpec, LearnerState, MultiDiscreteActions, Timestep
from tests.runs import all_resets, random_trajectory

AGENTS = [*(f"podrl.agents.{module.name}" for module in pkgutil.iter_modules(agents.__path__)), "tests.agents.minimal"]
SPECS = {
    "vector": EnvSpec(id="vector", observation=jax.ShapeDtypeStruct((6,), jnp.float32), actions=DiscreteActions(3)),
    "choices": EnvSpec(
        id="c", observation=jax.ShapeDtypeStruct((6,), jnp.float32), actions=MultiDiscreteActions((2, 3))
    ),
    "floats": EnvSpec(id="floats", observation=jax.ShapeDtypeStruct((6,), jnp.float32), actions=ContinuousActions(2)),
    "memory": EnvSpec(id="memory", observation=jax.ShapeDtypeStruct((6,), jnp.float32), actions=DiscreteActions(3)),
    "image": EnvSpec(id="image", observation=jax.ShapeDtypeStruct((40, 40, 1), jnp.uint8), actions=DiscreteActions(4)),
}
NETWORKS = {
    "vector": NetworkConfig(hidden_sizes=(16,), frame_stack=2),
    "choices": NetworkConfig(hidden_sizes=(16,), frame_stack=2),
    "floats": NetworkConfig(hidden_sizes=(16,), frame_stack=2, squash_actions=True),
    "memory": NetworkConfig(hidden_sizes=(16,), core="lstm", core_size=8, last_action=True, last_reward=True),
    "image": NetworkConfig(encoder="nature", frame_stack=3),
}


@pytest.fixture(params=[(name, kind) for name in AGENTS for kind in SPECS], ids="-".join)
def case(request):
    name, kind = request.param
    module = importlib.import_module(name)
    spec = SPECS[kind]
    agent = module.make_agent(module.AgentConfig(), make_network(NETWORKS[kind], spec), num_updates=100)
    return agent, spec


def make_timestep(spec, num_envs, first):
    observation = jax.random.randint(jax.random.key(7), (num_envs, *spec.observation.shape), 0, 255)
    return Timestep(
        observation=observation.astype(spec.observation.dtype),
        reward=jnp.zeros(num_envs),
        discount=jnp.ones(num_envs),
        first=jnp.broadcast_to(jnp.asarray(first), (num_envs,)),
    )


def keys(num_envs):
    return jax.random.split(jax.random.key(1), num_envs)


def test_acting_has_the_promised_shapes(case):
    agent, spec = case
    params, carry = agent.actor_params(agent.init(jax.random.key(0))), agent.initial_carry(5)
    action, behaviour, next_carry = agent.act(params, make_timestep(spec, 5, True), carry, keys(5))
    assert action.shape == (5, *spec.actions.struct.shape)
    assert action.dtype == spec.actions.struct.dtype
    assert all(x.shape[0] == 5 for x in jax.tree.leaves(behaviour))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), next_carry) == jax.tree.map(lambda x: (x.shape, x.dtype), carry)


def test_greedy_actions_are_what_a_policy_without_noise_would_sample(case):
    """What is sampled most, or the median of floats; the carry goes on as where the same was sampled."""
    agent, spec = case
    params, carry = agent.actor_params(agent.init(jax.random.key(0))), agent.initial_carry(1)
    scale = 100 if spec.id == "memory" else 5  # An LSTM's outputs are small.
    params = jax.tree.map(lambda x: scale * x, params)  # Further from uniform.
    timestep = make_timestep(spec, 1, True)
    greedy, greedy_carry = agent.act_greedy(params, timestep, carry)
    assert (greedy.shape, greedy.dtype) == ((1, *spec.actions.struct.shape), spec.actions.struct.dtype)
    sample = jax.jit(jax.vmap(lambda key: agent.act(params, timestep, carry, key[None])[0][0]))
    sampled = np.asarray(sample(keys(500)))
    if isinstance(spec.actions, ContinuousActions):
        np.testing.assert_allclose(np.median(sampled, axis=0), greedy[0], atol=0.15)
    else:
        for choices, chosen in zip(sampled.reshape(500, -1).T, greedy.ravel(), strict=True):
            counts = np.bincount(choices)
            assert counts.argmax() == chosen
            assert counts.max() > 200
    alike = keys(500)[(sampled == greedy).reshape(500, -1).all(axis=1).argmax()]
    jax.tree.map(np.testing.assert_array_equal, greedy_carry, agent.act(params, timestep, carry, alike[None])[2])


def test_acting_needs_neither_the_optimizer_nor_the_key(case):
    agent, _ = case
    state = agent.init(jax.random.key(0))
    bare = LearnerState(step=None, params=state.params, opt_state=None, extra=state.extra, key=None)
    jax.tree.map(np.testing.assert_array_equal, agent.actor_params(bare), agent.actor_params(state))


def test_the_carry_is_forgotten_where_an_episode_opens(case):
    """In whatever shows it: the actions of many environments, what is recorded of them, or the next carry."""
    agent, spec = case
    params, num_envs = agent.actor_params(agent.init(jax.random.key(0))), 200
    params = jax.tree.map(lambda x: 5 * x, params)  # Further from uniform.
    stale = jax.tree.map(lambda x: x + 1, agent.initial_carry(num_envs))
    act = jax.jit(lambda first, carry: agent.act(params, make_timestep(spec, num_envs, first), carry, keys(num_envs)))
    opened = [act(True, carry) for carry in (stale, agent.initial_carry(num_envs))]
    jax.tree.map(np.testing.assert_array_equal, *opened)
    within = act(False, stale)
    assert any((x != y).any() for x, y in zip(jax.tree.leaves(within), jax.tree.leaves(opened[0]), strict=True))


def test_update_compiles_once_and_counts_its_steps(case):
    agent, spec = case
    traces = 0

    def counted(state, trajectory):
        nonlocal traces
        traces += 1
        return agent.update(state, trajectory)

    update, state = jax.jit(counted), agent.init(jax.random.key(0))
    for seed in range(3):
        state, metrics = update(state, random_trajectory(agent, spec, 4, 4, seed))
    assert traces == 1
    assert isinstance(state, LearnerState)
    assert state.step == 3
    assert all(x.shape == () and np.isfinite(x) for x in jax.tree.leaves(metrics))
    assert set(CHECKED) <= set(metrics)


def test_update_keeps_the_states_shapes_and_dtypes(case):
    agent, spec = case
    before = jax.eval_shape(agent.init, jax.random.key(0))
    trajectory = jax.eval_shape(lambda: random_trajectory(agent, spec, 4, 4))
    after, _ = jax.eval_shape(agent.update, before, trajectory)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), before) == jax.tree.map(lambda x: (x.shape, x.dtype), after)


def test_a_trajectory_of_resets_teaches_nothing(case):
    agent, spec = case
    state = agent.init(jax.random.key(0))
    empty = all_resets(random_trajectory(agent, spec, 4, 4))
    poisoned = dataclasses.replace(empty, reward=jnp.full_like(empty.reward, 1e6))
    after, metrics = jax.jit(agent.update)(state, poisoned)
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
    assert all(np.isfinite(x) for x in jax.tree.leaves(metrics))


def test_reset_rows_do_not_matter(case):
    agent, spec = case
    state, trajectory = agent.init(jax.random.key(0)), random_trajectory(agent, spec, 6, 8)
    reset = ~trajectory.is_transition
    assert reset.any()
    in_action = jnp.expand_dims(reset, range(2, trajectory.action.ndim))
    changed = dataclasses.replace(
        trajectory,
        reward=jnp.where(reset, 100.0, trajectory.reward),
        action=jnp.where(in_action, 0, trajectory.action),
        discount=jnp.where(reset, 1 - trajectory.discount, trajectory.discount),
    )
    update = jax.jit(agent.update)
    jax.tree.map(np.testing.assert_array_equal, update(state, trajectory)[0].params, update(state, changed)[0].params)


@pytest.mark.parametrize("name", AGENTS)
def test_the_config_has_defaults_a_name_and_the_keys_that_lay_out_a_batch(name):
    config = importlib.import_module(name).AgentConfig()
    assert config.name == name.rpartition(".")[2]
    assert config.minibatches >= 1
    assert config.micro_batches >= 0
