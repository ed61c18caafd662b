"""What every agent in `podrl/agents/` that learns from a data set owes the rest of podrl. A new one gets all of these.

Each is given two streams, a uniform one and one rebalanced by return.
"""

import dataclasses
import importlib

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
import pytest

from podrl.actions import ContinuousActions
from podrl.agents.parts.interface import Batch, Fresh
from podrl.agents.parts.nonfinite import CHECKED
from podrl.agents.parts.recorded import REBALANCED, UNIFORM, samples_of
from podrl.agents.parts.updating import make_update
from podrl.config.optimizer import OptimizerConfig
from tests.agents.test_contract import ALL, NETWORKS, make_agent, shapes, spec_of
from tests.agents.test_sac import random_sample
from tests.short_runs import all_resets, random_recorded

# What turns an agent into one for data sets.
FIELDS = {
    "bc": {"length": 3},
    "misa": {"action_samples": 3},
    "r2d2": {"starts": "rows", "burn_in": 0, "length": 1, "n_steps": 3, "conservative_weight": 1.0},
    "sac": {"conservative_weight": 5.0, "conservative_actions": 2},
    "td3": {"behaviour_alpha": 2.5, "policy_period": 1},
}
BATCH, CALLS = 16, 2


def config_of(name):
    """With a large epsilon: Adam's steps are then no signs of gradients that rounding decides."""
    config = importlib.import_module(name).AgentConfig
    made = config(**FIELDS.get(name.rpartition(".")[2], {}))
    optimizers = {
        field.name: dataclasses.replace(value, epsilon=0.1)
        for field in dataclasses.fields(made)
        if isinstance(value := getattr(made, field.name), OptimizerConfig)
    }
    return dataclasses.replace(made, **optimizers)


class Case:
    """An agent, its data and its program, which all tests of the case share."""

    def __init__(self, name, kind):
        config, self.spec, self.traces = config_of(name), spec_of(name, kind), 0
        self.rows = config.update_shape.recorded.rows
        self.agent = make_agent(name, kind, self.spec, config)
        self.state = jax.jit(self.agent.init)(jax.random.key(0))
        self.update = jax.jit(self._count_and_update)

    def _count_and_update(self, state, recorded):
        self.traces += 1
        return make_update(self.agent)(state, Fresh(recorded=recorded))

    def streams(self, seed=0):
        """Both streams, [K, T, B]."""

        def draw(stream):
            seeds = [100 * stream + 10 * seed + call for call in range(CALLS)]
            samples = [random_recorded(self.agent, self.spec, self.rows, BATCH, seed) for seed in seeds]
            return jax.tree.map(lambda *xs: np.stack(xs), *samples)

        return {UNIFORM: draw(0), REBALANCED: draw(1)}


def parameters():
    for name, kind in ALL:
        if not name.startswith("podrl") or not spec_of(name, kind) or not config_of(name).update_shape.recorded:
            continue
        if NETWORKS[kind].core != "none" and config_of(name).update_shape.recorded.length == 1:  # They refuse it.
            continue
        slow = [pytest.mark.slow] if kind == "image" else []
        yield pytest.param((name, kind), id=f"{name}-{kind}", marks=slow)


@pytest.fixture(scope="module", params=parameters())
def case(request):
    return Case(*request.param)


def change(streams, function):
    """Both streams with another trajectory each."""
    return {
        name: dataclasses.replace(sample, trajectory=function(sample.trajectory)) for name, sample in streams.items()
    }


def with_some_resets(trajectory):
    """Marks resets in every fourth sequence; a data set gives single transitions none."""
    first = np.array(trajectory.first)
    first[:, 1:, ::4] = True
    return dataclasses.replace(trajectory, first=first)


def test_an_update_compiles_once_counts_its_calls_and_keeps_the_states_shapes(case):
    state = case.state
    for seed in range(2):
        state, metrics = case.update(state, case.streams(seed))
    assert case.traces == 1
    assert (int(state.step), int(state.learner_step)) == (2, 2 * CALLS)
    assert all(x.shape == () and np.isfinite(x) for x in jax.tree.leaves(metrics))
    assert set(CHECKED) <= set(metrics)
    assert shapes(state) == shapes(case.state)
    assert any(np.any(x != y) for x, y in zip(*map(jax.tree.leaves, (state.params, case.state.params)), strict=True))


def test_streams_of_resets_teach_nothing(case):
    def poisoned(trajectory):
        return dataclasses.replace(all_resets(trajectory), reward=np.full_like(trajectory.reward, 1e6))

    after, metrics = case.update(case.state, change(case.streams(), poisoned))
    jax.tree.map(np.testing.assert_array_equal, after.params, case.state.params)
    assert all(np.isfinite(x) for x in jax.tree.leaves(metrics))


def test_what_lies_behind_the_end_of_an_episode_does_not_matter(case):
    streams = change(case.streams(), with_some_resets)

    def changed(trajectory):
        reset = trajectory.first[:, 1:]
        in_action = reset.reshape(*reset.shape, *(1,) * (trajectory.action.ndim - 3))
        return dataclasses.replace(
            trajectory,
            reward=np.where(reset, np.float32(100), trajectory.reward),
            action=np.where(in_action, np.zeros_like(trajectory.action), trajectory.action),
            discount=np.where(reset, 1 - trajectory.discount, trajectory.discount),
        )

    states = [case.update(case.state, given)[0].params for given in (streams, change(streams, changed))]
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_actions_that_leave_the_range_teach_what_the_environment_made_of_them(case):
    """For policies that are squashed."""
    if not isinstance(case.spec.actions, ContinuousActions):
        pytest.skip("This case has no actions of numbers.")

    def learn(scale, limit):
        def scaled(trajectory):
            return dataclasses.replace(trajectory, action=np.clip(scale * trajectory.action, -limit, limit))

        return case.update(case.state, change(case.streams(), scaled))

    (raw, metrics), (clipped, told), (other, _) = learn(3, 9), learn(3, 1), learn(1, 1)
    jax.tree.map(np.testing.assert_array_equal, (raw.params, metrics), (clipped.params, told))
    assert any(np.any(x != y) for x, y in zip(*map(jax.tree.leaves, (raw.params, other.params)), strict=True))


def test_experience_of_a_run_itself_is_not_clipped():
    sample = random_sample()
    large = dataclasses.replace(
        sample, trajectory=dataclasses.replace(sample.trajectory, action=9 * np.ones((3, 16, 2)))
    )
    rollouts, recorded = Batch(rollouts=large), Batch(recorded={UNIFORM: large})
    assert [float(x.trajectory.action.max()) for x in samples_of(rollouts, clip=True)] == [9, 9]
    assert [float(x.trajectory.action.max()) for x in samples_of(recorded, clip=True)] == [1, 1]
    assert [float(x.trajectory.action.max()) for x in samples_of(recorded)] == [9, 9]


@pytest.mark.slow
def test_eight_devices_learn_what_one_does(case):
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))

    def place(x, *axes):
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))

    streams = case.streams()
    alone, metrics = case.update(case.state, streams)
    split = {
        name: sample.map(lambda x: place(x, None, None, "data"), lambda x: place(x, None, "data"))
        for name, sample in streams.items()
    }
    update = jax.jit(lambda state, recorded: make_update(case.agent)(state, Fresh(recorded=recorded)))
    together, found = update(jax.tree.map(place, case.state), split)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), together.params, alone.params)
    for name, value in metrics.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
