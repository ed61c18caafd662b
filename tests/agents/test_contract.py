"""What every agent in `podrl/agents/` owes the rest of podrl. A new agent gets all of these for nothing.

`tests/agents/minimal.py` is here too: what it does without, no agent needs.
"""

import dataclasses
import importlib
import os

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.actions import ContinuousActions, DiscreteActions, HybridActions, MultiDiscreteActions, options_of
from podrl.agents.parts.interface import Fresh
from podrl.agents.parts.loading import agent_names
from podrl.agents.parts.nonfinite import CHECKED
from podrl.agents.parts.recorded import UNIFORM
from podrl.agents.parts.updating import make_update
from podrl.config.config import ConfigError, NetworkConfig
from podrl.networks.available import make_networks
from podrl.replay.batches import evenly_weighted
from podrl.types import ACTION_MASK, VECTOR, EnvSpec, LearnerState, Timestep
from tests.short_runs import all_resets, make_agent_update, random_trajectory

OWN = os.environ.get("PODRL_AGENTS", "").split()  # Users' agents, see docs/howto/own_algorithm.md.
AGENTS = OWN or [*(f"podrl.agents.{name}" for name in agent_names()), "tests.agents.minimal", "examples.a2c"]
SPECS = {
    "vector": EnvSpec(id="vector", observation=jax.ShapeDtypeStruct((6,), jnp.float32), actions=DiscreteActions(3)),
    "choices": EnvSpec(
        id="c", observation=jax.ShapeDtypeStruct((6,), jnp.float32), actions=MultiDiscreteActions((2, 3))
    ),
    "floats": EnvSpec(id="floats", observation=jax.ShapeDtypeStruct((6,), jnp.float32), actions=ContinuousActions(2)),
    "memory": EnvSpec(id="memory", observation=jax.ShapeDtypeStruct((6,), jnp.float32), actions=DiscreteActions(3)),
    "parts": EnvSpec(
        id="parts",
        observation={
            "camera": jax.ShapeDtypeStruct((5, 5, 2), jnp.uint8),
            VECTOR: jax.ShapeDtypeStruct((4,), jnp.float32),
            ACTION_MASK: jax.ShapeDtypeStruct((5,), jnp.bool_),
        },
        actions=HybridActions((2, 3), 2),
    ),
    "image": EnvSpec(id="image", observation=jax.ShapeDtypeStruct((40, 40, 1), jnp.uint8), actions=DiscreteActions(4)),
}
NETWORKS = {
    "vector": NetworkConfig(hidden_sizes=(16,), frame_stack=2),
    "choices": NetworkConfig(hidden_sizes=(16,), frame_stack=2),
    "floats": NetworkConfig(hidden_sizes=(16,), frame_stack=2, squash_actions=True),
    "memory": NetworkConfig(hidden_sizes=(16,), core="lstm", core_size=8, last_action=True, last_reward=True),
    "parts": NetworkConfig(encoder="minatar", hidden_sizes=(16,), frame_stack=2, last_action=True),
    "image": NetworkConfig(encoder="nature", frame_stack=3),
}


# Environments as those of a kind, for agents that make one choice.
ONE_CHOICE = {"parts": dataclasses.replace(SPECS["parts"], actions=DiscreteActions(5))}
NUM_ENVS = 500  # One number for all that acts, so that a case compiles it once.
NUM_UPDATES = 100


def takes(name, spec):
    """Whether an agent takes such actions: all kinds, unless its config lists some."""
    kinds = getattr(importlib.import_module(name).AgentConfig, "action_kinds", object)
    return spec is not None and isinstance(spec.actions, kinds)


def spec_of(name, kind):
    """What an agent acts in; None if it takes no such actions."""
    return next((spec for spec in (SPECS[kind], ONE_CHOICE.get(kind)) if takes(name, spec)), None)


def config_of(name, kind):
    """The default, of an agent that may start sequences anywhere with the starts that a core needs."""
    config = importlib.import_module(name).AgentConfig()
    if kind == "memory" and getattr(config, "starts", None) == "rows":
        return dataclasses.replace(config, starts="unrolls")
    return config


def make_agent(name, kind, spec, config=None):
    module, networks = importlib.import_module(name), make_networks(NETWORKS[kind], spec)
    return module.make_agent(
        config or config_of(name, kind), networks=networks, spec=spec, num_envs=NUM_ENVS, num_updates=NUM_UPDATES
    )


class Case:
    """An agent with its programs: each is compiled once, and shared by all tests of the case."""

    def __init__(self, name, kind):
        self.spec, self.traces = spec_of(name, kind), 0
        self.agent = make_agent(name, kind, self.spec)
        self.needs_data = importlib.import_module(name).AgentConfig().update_shape.needs_data
        self.state = jax.jit(self.agent.init)(jax.random.key(0))
        self.params = self.agent.actor_params(self.state)
        self.carry = jax.jit(self.agent.initial_carry)(np.arange(NUM_ENVS, dtype=np.uint32))
        self.act, self.act_greedy = jax.jit(self.agent.act), jax.jit(self.agent.act_greedy)
        self.update = jax.jit(self._count_and_update)
        self.keys = jax.random.split(jax.random.key(1), NUM_ENVS)

    def _count_and_update(self, state, trajectory):
        """What only a data set teaches learns from the same as if it had been recorded; it gets no rollouts."""
        self.traces += 1
        if not self.needs_data:
            return make_agent_update(self.agent)(state, trajectory)
        recorded = {UNIFORM: jax.tree.map(lambda x: x[None], evenly_weighted(trajectory))}
        return make_update(self.agent)(state, Fresh(recorded=recorded))

    def trajectory(self, seed=0):
        return random_trajectory(self.agent, self.spec, 6, 8, seed)

    def params_further_from_uniform(self, scale=5):
        """At the end of the run, where agents that explore do so least: learned noise is small."""

        def scaled(path, x):
            factor = 0.1 if "_sigma" in jax.tree_util.keystr(path[-1:]) else scale
            return np.asarray(factor * np.asarray(x), x.dtype) if x.dtype == jnp.float32 else np.zeros_like(x)

        # Target networks may act. What is counted down is over.
        params, extra = jax.tree_util.tree_map_with_path(scaled, (self.state.params, self.state.extra))
        return self.agent.actor_params(
            dataclasses.replace(self.state, params=params, extra=extra, step=jnp.asarray(NUM_UPDATES, jnp.int32))
        )


ALL = [(name, kind) for name in AGENTS for kind in SPECS]


def parameters():
    """All cases. Convolutions are the same for all agents, and take long to compile."""
    for name, kind in ALL:
        if spec_of(name, kind):
            slow = [pytest.mark.slow] if kind == "image" and name != "podrl.agents.impala" else []
            yield pytest.param((name, kind), id=f"{name}-{kind}", marks=slow)


@pytest.fixture(scope="module", params=parameters())
def case(request):
    return Case(*request.param)


def make_timestep(spec, first, same=False):
    """Of `NUM_ENVS` environments, or as often that of one."""
    rng = np.random.default_rng(7)

    def draw(part):
        drawn = rng.integers(1, 255, (1 if same else NUM_ENVS, *part.shape)).astype(part.dtype)
        return np.broadcast_to(drawn, (NUM_ENVS, *part.shape))

    return Timestep(
        observation=jax.tree.map(draw, spec.observation),
        reward=np.zeros(NUM_ENVS, np.float32),
        discount=np.ones(NUM_ENVS, np.float32),
        first=np.full(NUM_ENVS, first),
    )


def shapes(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def test_acting_has_the_promised_shapes(case):
    actions = case.spec.actions.struct
    action, behaviour, carry = case.act(case.params, make_timestep(case.spec, True), case.carry, case.keys)
    assert (action.shape, action.dtype) == ((NUM_ENVS, *actions.shape), actions.dtype)
    assert all(x.shape[0] == NUM_ENVS for x in jax.tree.leaves(behaviour))
    assert shapes(carry) == shapes(case.carry)


def test_greedy_actions_are_what_a_policy_without_noise_would_sample(case):
    """What is sampled most, or the median of floats; the carry goes on as where the same was sampled."""
    spec = case.spec
    params = case.params_further_from_uniform(100 if spec.id == "memory" else 5)  # An LSTM's outputs are small.
    timestep = make_timestep(spec, True, same=True)
    greedy, greedy_carry = case.act_greedy(params, timestep, case.carry, case.keys)
    assert (greedy.shape, greedy.dtype) == ((NUM_ENVS, *spec.actions.struct.shape), spec.actions.struct.dtype)
    sampled, _, carry = jax.device_get(case.act(params, timestep, case.carry, case.keys))
    greedy, greedy_carry = jax.device_get((greedy[:1], greedy_carry))
    if isinstance(spec.actions, ContinuousActions):
        np.testing.assert_allclose(np.median(sampled, axis=0), greedy[0], atol=0.15)
    else:
        num_choices = len(spec.actions.nums) if isinstance(spec.actions, HybridActions) else None
        choices_made = sampled.reshape(NUM_ENVS, -1).T[:num_choices].astype(int)
        for choices, chosen in zip(choices_made, greedy.ravel()[:num_choices], strict=True):
            counts = np.bincount(choices)
            assert counts.argmax() == chosen
            assert counts.max() > 200
    alike = (sampled == greedy).reshape(NUM_ENVS, -1).all(axis=1).argmax()
    if isinstance(spec.actions, HybridActions):  # No two have the same floats.
        return
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[alike], y[alike]), greedy_carry, carry)


def test_acting_needs_neither_the_optimizer_nor_the_key(case):
    state = case.state
    bare = dataclasses.replace(state, learner_step=None, opt_state=None, replay=None, key=None)
    jax.tree.map(np.testing.assert_array_equal, case.agent.actor_params(bare), case.params)


def test_the_carry_is_forgotten_where_an_episode_opens(case):
    """In whatever shows it: the actions of many environments, what is recorded of them, or the next carry.

    What acting never changes is no memory, such as how much an environment explores.
    """
    params = case.params_further_from_uniform()
    acted = case.act(params, make_timestep(case.spec, False), case.carry, case.keys)[2]
    moves = jax.tree.map(lambda x, y: bool(np.any(np.asarray(x) != np.asarray(y))), case.carry, acted)
    stale = jax.tree.map(lambda x, moved: np.asarray(np.asarray(x) + moved, x.dtype), case.carry, moves)

    def act(first, carry):
        return jax.device_get(case.act(params, make_timestep(case.spec, first), carry, case.keys))

    opened = [act(True, carry) for carry in (stale, case.carry)]
    jax.tree.map(np.testing.assert_array_equal, *opened)
    within = act(False, stale)
    assert any((x != y).any() for x, y in zip(jax.tree.leaves(within), jax.tree.leaves(opened[0]), strict=True))


def test_update_compiles_once_and_counts_its_steps(case):
    state = case.state
    for seed in range(3):
        state, metrics = case.update(state, case.trajectory(seed))
    assert case.traces == 1
    assert isinstance(state, LearnerState)
    assert state.step == 3
    assert all(x.shape == () and np.isfinite(x) for x in jax.tree.leaves(metrics))
    assert set(CHECKED) <= set(metrics)


def test_update_keeps_the_states_shapes_and_dtypes(case):
    after, _ = case.update(case.state, case.trajectory())
    assert shapes(after) == shapes(case.state)


def test_a_trajectory_of_resets_teaches_nothing(case):
    empty = all_resets(case.trajectory())
    poisoned = dataclasses.replace(empty, reward=np.full_like(empty.reward, 1e6))
    after, metrics = case.update(case.state, poisoned)
    jax.tree.map(np.testing.assert_array_equal, after.params, case.state.params)
    assert all(np.isfinite(x) for x in jax.tree.leaves(metrics))


def test_reset_rows_do_not_matter(case):
    trajectory = jax.device_get(case.trajectory())
    reset = ~np.asarray(trajectory.is_transition)
    assert reset.any()
    in_action = np.expand_dims(reset, tuple(range(2, trajectory.action.ndim)))
    changed = dataclasses.replace(
        trajectory,
        reward=np.where(reset, np.float32(100), trajectory.reward),
        action=np.where(in_action, np.zeros_like(trajectory.action), trajectory.action),
        discount=np.where(reset, 1 - trajectory.discount, trajectory.discount),
    )
    states = [case.update(case.state, x)[0].params for x in (trajectory, changed)]
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_what_a_mask_forbids_is_never_done_and_learning_sees_that(case):
    if not isinstance(case.spec.observation, dict):
        pytest.skip("This case has no action mask.")
    mask = np.broadcast_to([False, True, True, False, True], (NUM_ENVS, 5))
    timestep = make_timestep(case.spec, True)
    timestep = dataclasses.replace(timestep, observation={**timestep.observation, ACTION_MASK: mask})
    params = case.params_further_from_uniform(100)
    action, behaviour, _ = case.act(params, timestep, case.carry, case.keys)
    greedy, _ = case.act_greedy(params, timestep, case.carry, case.keys)
    anything, _, _ = case.act(case.params, timestep, case.carry, case.keys)
    starts = np.cumsum((0, *options_of(case.spec.actions)))[:-1]
    for taken in (action, greedy, anything):
        options = np.asarray(taken).reshape(NUM_ENVS, -1)[:, : len(starts)].astype(int) + starts
        assert mask[0][options].all()

    few, rows = case.trajectory(), case.trajectory().reward.shape
    first = (slice(None), slice(rows[1]))
    few = dataclasses.replace(
        few,
        observation={**few.observation, ACTION_MASK: jnp.broadcast_to(mask[0], (rows[0] + 1, rows[1], 5))},
        action=jnp.broadcast_to(action[None][first], few.action.shape),
        behaviour=jax.tree.map(lambda x: jnp.broadcast_to(x[None][first], (rows[0], *x[: rows[1]].shape)), behaviour),
    )
    after, metrics = case.update(case.state, few)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((metrics, after.params)))


@pytest.mark.parametrize(("name", "kind"), [case for case in ALL if not takes(case[0], SPECS[case[1]])])
def test_actions_that_an_agent_does_not_take_are_refused_in_one_line(name, kind):
    with pytest.raises(ConfigError) as caught:
        make_agent(name, kind, SPECS[kind])
    said = str(caught.value)
    assert said.startswith(f"agent.name='{importlib.import_module(name).AgentConfig().name}' takes actions of ")
    assert f"env.id={SPECS[kind].id!r}" in said
    assert "\n" not in said


@pytest.mark.parametrize("name", AGENTS)
def test_the_config_has_defaults_a_name_and_the_keys_that_lay_out_a_batch(name):
    config = importlib.import_module(name).AgentConfig()
    assert config.name in (name, name.rpartition(".")[2])
    assert config.update_shape.optimizer_steps >= 1
