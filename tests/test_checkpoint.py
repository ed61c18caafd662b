import dataclasses

import jax
import numpy as np
import pytest

from podrl.checkpoint import Checkpointer
from podrl.config import TopologyConfig
from podrl.learner import Learner
from podrl.mesh import make_topology
from podrl.types import Counters
from tests.runs import make_agent, make_config


def learner_on(num_devices):
    config = TopologyConfig(actor_devices_per_process=1, learner_devices_per_process=num_devices)
    agent, _ = make_agent(make_config())
    return Learner(agent, make_topology(config, jax.devices()[:num_devices]).learner)


def shape_of(learner):
    state = learner.init(0)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, learner.state_sharding)


def plain(state):
    return jax.device_get(dataclasses.replace(state, key=jax.random.key_data(state.key)))


@pytest.mark.parametrize("num_devices", [1, 4, 8])
def test_a_state_comes_back_bit_for_bit_on_any_number_of_devices(tmp_path, num_devices):
    state, counters = learner_on(4).init(seed=9), Counters(learner_steps=7, env_steps=5 * 10**9, frames=2 * 10**10)
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        checkpointer.save(state, counters)
    learner = learner_on(num_devices)
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        restored, restored_counters = checkpointer.restore(shape_of(learner))
    assert restored_counters == counters
    jax.tree.map(np.testing.assert_array_equal, plain(restored), plain(state))
    assert jax.tree.leaves(restored.params)[0].sharding == jax.tree.leaves(learner.state_sharding.params)[0]


def test_only_the_newest_are_kept(tmp_path):
    state = learner_on(1).init(0)
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        for step in (3, 6, 9):
            checkpointer.save(state, Counters(learner_steps=step))
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [6, 9]


def test_the_saved_state_may_be_donated_at_once(tmp_path):
    state = learner_on(1).init(0)
    want = plain(state)
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        checkpointer.save(state, Counters(learner_steps=1))
        jax.tree.map(lambda x: x.delete(), state.params)
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        restored, _ = checkpointer.restore(shape_of(learner_on(1)))
    jax.tree.map(np.testing.assert_array_equal, plain(restored).params, want.params)


def test_nothing_to_restore_is_said(tmp_path):
    with Checkpointer(tmp_path, keep=1) as checkpointer, pytest.raises(FileNotFoundError, match="No checkpoint in"):
        checkpointer.restore(shape_of(learner_on(1)))
