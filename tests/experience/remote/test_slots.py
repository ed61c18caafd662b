"""Acting in slots, in batches of any environments, makes the trajectories that acting in whole pools makes."""

import jax
import numpy as np
import pytest

from podrl.envs.source import load_source
from podrl.experience.remote.group import Group
from podrl.experience.remote.inference import Inference
from podrl.experience.remote.slots import SlotUnroller, compile_slots
from podrl.experience.remote.unroll_queue import UnrollQueue
from podrl.experience.unroll import Unroller
from podrl.ops.keys import ERA
from tests.short_runs import make_agent, make_config

LENGTH, NUM_UNROLLS = 5, 3
INDICES = ((0, 1), (4, 5), (2, 3))
SEVERAL_ERAS = ERA // LENGTH + 3


def in_a_pool(config, unroller, params, env_indices, first):
    """Trajectories of one pool, as exact actors make them."""
    pool = load_source(config.env.source).make_pool(config.env, seeds=list(env_indices), num_threads=1)
    act, finish = jax.jit(unroller.act), jax.jit(unroller.finish)
    state = unroller.init(config.seed, np.asarray(env_indices, np.uint32), np.int32(first))
    timestep, made = pool.reset(), []
    for version in range(NUM_UNROLLS):
        for _ in range(LENGTH):
            action, state = act(params, np.int32(version), state, timestep)
            pool.send(np.asarray(action))
            timestep = pool.recv()
        trajectory, state = finish(state, timestep)
        made.append(trajectory)
    return made


class Served:
    """A group, its pool, and its trajectories."""

    def __init__(self, config, number):
        self.group = Group(number=number, env_index=np.asarray(INDICES[number], np.uint32))
        self.pool = load_source(config.env.source).make_pool(config.env, seeds=list(INDICES[number]), num_threads=1)
        self.group.timestep = self.pool.reset()
        self.made = []

    @property
    def version(self):
        return len(self.made)


def serve(inference, queue, chosen):
    """One batch of these groups."""
    for each in chosen:
        if each.group.unroll is None:
            each.group.unroll, each.group.row = queue.begin(each.group.number, each.version, 0), 0
    for each, action in zip(chosen, inference.act([each.group for each in chosen]), strict=True):
        each.pool.send(action)
        each.group.timestep = each.pool.recv()
        each.group.row += 1
        if each.group.row == LENGTH:
            unroll, each.group.unroll = each.group.unroll, None
            inference.finish(each.group, unroll, each.group.timestep)
            queue.finish(each.group.number)
            each.made.append(inference.read(unroll, each.group, is_cut=False))


@pytest.mark.parametrize("first", [pytest.param(0, marks=pytest.mark.slow), SEVERAL_ERAS])
def test_trajectories_do_not_depend_on_who_shares_a_batch(first):
    config = make_config("LunarLander-v3", network__core="lstm", network__core_size=8, network__frame_stack=2)
    agent, spec = make_agent(config)
    unroller = Unroller(agent=agent, spec=spec, unroll_length=LENGTH, num_envs=2)
    params = agent.actor_params(agent.init(jax.random.key(0)))
    slots = SlotUnroller(unroller=unroller, seed=config.seed, num_slots=6, num_columns=2 * 3 * 4)
    device = jax.devices()[0]
    inference = Inference(compile_slots(slots, [2, 6], device), device, first=first)
    queue, served = UnrollQueue(6, max_lag=100), [Served(config, number) for number in range(3)]
    for each in served:
        inference.open(each.group)
    rng = np.random.default_rng(0)
    while left := [each for each in served if len(each.made) < NUM_UNROLLS]:
        # Parameters are the same; only the version tells unrolls apart.
        version = min(each.version for each in left)
        now = [each for each in left if each.version == version]
        inference.use(version, params)
        serve(inference, queue, [now[i] for i in rng.permutation(len(now))[: rng.integers(1, len(now) + 1)]])
    for each in served:
        expected = in_a_pool(config, unroller, params, INDICES[each.group.number], first)
        assert len({trajectory.action.tobytes() for trajectory in map(jax.device_get, expected)}) == NUM_UNROLLS
        for found, wanted in zip(jax.device_get(each.made), jax.device_get(expected), strict=True):
            for (path, one), other in zip(
                jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted), strict=True
            ):
                np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6, err_msg=jax.tree_util.keystr(path))
            np.testing.assert_array_equal(found.action, wanted.action)


def test_a_cut_marks_the_first_row_and_the_place_names_the_environments():
    config = make_config()
    agent, spec = make_agent(config)
    unroller = Unroller(agent=agent, spec=spec, unroll_length=LENGTH, num_envs=2)
    slots = SlotUnroller(unroller=unroller, seed=1, num_slots=2, num_columns=4)
    device = jax.devices()[0]
    inference = Inference(compile_slots(slots, [2], device), device, first=0)
    group, place = (Group(number=0, env_index=np.asarray(index, np.uint32)) for index in ((0, 1), (6, 7)))
    unroll = UnrollQueue(1, max_lag=0).begin(0, 0, 0)
    cut, whole = (inference.read(unroll, place, is_cut=is_cut) for is_cut in (True, False))
    assert cut.first.sum() == 2
    assert cut.first[0].all()
    assert whole.first.sum() == 0
    assert cut.env_index.tolist() == [6, 7]
    assert group.column(unroll).tolist() == place.column(unroll).tolist()
