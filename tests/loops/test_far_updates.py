"""Runs of weeks: more than 2**31 steps of one environment, which devices count in 32 bits."""

import dataclasses

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl import train
from podrl.actions import DiscreteActions
from podrl.assembly import assemble
from podrl.envs.pools.in_graph import DevicePool
from podrl.envs.source import load_source, make_environment
from podrl.experience.unroll import Unroller
from podrl.ops.keys import ERA, era_keys, step_keys
from podrl.runs.checkpointing import make_checkpointer
from tests import short_runs
from tests.processes import read_rows
from tests.short_runs import facts, make_config


def bits(keys):
    return {tuple(row) for row in np.asarray(jax.random.key_data(keys)).tolist()}


def test_keys_of_steps_are_those_of_ever_in_the_first_era_and_others_in_each():
    keys = jax.random.split(jax.random.key(3), 4)
    steps = [0, 1, 7, ERA - 1, ERA]
    first = [era_keys(keys, jnp.int32(0)), *(era_keys(keys, jnp.int32(era)) for era in (1, 2, 2**31 - 1))]
    np.testing.assert_array_equal(jax.random.key_data(first[0]), jax.random.key_data(keys))
    found = [bits(step_keys(each, jnp.int32(step))) for each in first for step in steps]
    assert len(set.union(*found, *map(bits, first))) == 4 * (len(found) + len(first))
    ever = jax.vmap(lambda key: jax.random.fold_in(key, 7))(keys)
    assert bits(step_keys(first[0], jnp.int32(7))) == bits(ever)


@pytest.fixture(scope="module")
def unroller():
    agent, spec = short_runs.make_agent(make_config())
    return Unroller(agent=agent, spec=spec, unroll_length=4, num_envs=2)


def test_an_acting_state_is_the_same_opened_at_an_unroll_or_come_to_it(unroller):
    indices = jnp.arange(2, dtype=jnp.uint32)
    timestep = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), unroller.timestep_shape)
    last = ERA // 4 - 1  # of the first era
    for unrolls in (last, 3 * (ERA // 4) - 1, 5):
        before = unroller.init(1, indices, jnp.int32(unrolls))
        _, come = unroller.finish(dataclasses.replace(before, row=jnp.int32(4)), timestep)
        opened = unroller.init(1, indices, jnp.int32(unrolls + 1))
        assert (int(come.step), int(come.unrolls)) == (int(opened.step), unrolls + 1)
        assert int(come.step) == (unrolls + 1) % (ERA // 4) * 4
        assert bits(come.keys) == bits(opened.keys)
        assert (bits(come.keys) == bits(before.keys)) == (unrolls == 5)


def test_a_pool_of_jax_environments_steps_on_behind_2_to_the_32():
    environment = make_environment(load_source("gymnax"), short_runs.anakin_config("Breakout-MinAtar").env)
    observed = []
    for steps in (0, 2**31 - 2, 2**32 - 2):
        pool = DevicePool(environment, DiscreteActions(3).struct, seeds=[1, 2])
        pool.reset()
        pool._steps = steps
        for _ in range(3):
            pool.send(np.zeros(2, np.int32))
            observed.append(pool.recv())
    assert len(observed) == 9


def ordered(workdir):
    """Rows without what depends on the clock, those of evaluations behind the others."""
    return sorted(facts(read_rows(workdir)), key=lambda row: ("evaluate/return" in row, row["learner_steps"]))


def move(workdir, config, update):
    """Moves a run's newest checkpoint to a far update, as weeks of training would."""
    parts = assemble(config)
    with make_checkpointer(config, workdir) as checkpointer:
        snapshot = checkpointer.restore(parts.state_shape, checkpointer.steps()[-1])
        step = jax.device_put(jnp.asarray(update, jnp.int32), snapshot.state.step.sharding)
        env_steps = update * config.env_steps_per_update
        counters = dataclasses.replace(snapshot.counters, learner_steps=update, env_steps=env_steps, frames=env_steps)
        far = dataclasses.replace(snapshot, state=dataclasses.replace(snapshot.state, step=step), counters=counters)
        checkpointer.save(far, config={}, manifest={})
        checkpointer.wait()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loop", "agent", "steps"),
    [
        ("sebulba", "impala", 2**31),
        ("sebulba", "ppo", 2**32),
        ("anakin", "impala", 2**32),
        ("anakin", "ppo", 2**31),
    ],
)
def test_a_run_trains_saves_and_resumes_behind_so_many_steps(tmp_path, loop, agent, steps):
    far = steps // 4 - 4  # Updates of four steps, and a boundary.
    make = short_runs.anakin_config if loop == "anakin" else make_config
    one_device = {"topology__actor_devices_per_process": 1, "topology__learner_devices_per_process": 1}
    config = make(
        **({} if loop == "anakin" else one_device),
        agent__minibatches=1,
        agent=agent,
        total_env_steps=(far + 10) * 32,
        checkpoint__every_updates=4,
        log__tensorboard=False,
        evaluate__every_updates=8,
        evaluate__episodes=2,
    )
    short = dataclasses.replace(config, total_env_steps=4 * 32)
    for name in ("straight", "stopped"):
        train.train(short, workdir=str(tmp_path / name))
        move(tmp_path / name, config, far)
    outcome = train.train(config, workdir=str(tmp_path / "straight"), accept_changes=True)
    assert outcome.finished
    assert outcome.counters.learner_steps == far + 10

    def has_crossed():
        return read_rows(tmp_path / "stopped")[-1]["learner_steps"] >= far + 5

    stopped = train.train(config, workdir=str(tmp_path / "stopped"), accept_changes=True, stop_code=has_crossed)
    assert not stopped.finished
    train.train(config, workdir=str(tmp_path / "stopped"))
    rows = read_rows(tmp_path / "straight")
    assert ordered(tmp_path / "stopped") == ordered(tmp_path / "straight")
    batches = [row["fingerprint/batch"] for row in rows if "fingerprint/batch" in row]
    assert len(set(batches)) == len(batches)
    assert rows[-1]["env_steps"] == (far + 10) * 32
