import jax
from jax import numpy as jnp
from jax.sharding import PartitionSpec as P
import pytest

from podrl.config.config import ConfigError, TopologyConfig
from podrl.mesh import make_topology, tree_sharding


class FakeDevice:
    """Stands for a device of another host, of which a single-process test has none."""

    device_kind = "fake"
    platform = "fake"

    def __init__(self, id: int, process_index: int):
        self.id, self.process_index = id, process_index


@pytest.mark.parametrize(
    ("devices", "actors", "learners", "want_actors", "want_learners"),
    [
        (1, 0, 0, [0], [0]),
        (2, 0, 0, [0], [1]),
        (3, 0, 0, [0], [1, 2]),
        (4, 0, 0, [0, 1], [2, 3]),
        (8, 0, 0, [0, 1, 2, 3], [4, 5, 6, 7]),
        (4, 1, 3, [0], [1, 2, 3]),
        (8, 2, 6, [0, 1], [2, 3, 4, 5, 6, 7]),
        (8, 1, 0, [0], [4, 5, 6, 7]),
        (8, 4, 0, [0, 1, 2, 3], [4, 5, 6, 7]),
        (8, 0, 4, [0, 1, 2, 3], [4, 5, 6, 7]),
        (4, 1, 4, [0], [0, 1, 2, 3]),
        (2, 2, 2, [0, 1], [0, 1]),
        (4, 4, 0, [0, 1, 2, 3], [0, 1, 2, 3]),
        (4, 0, 4, [0], [0, 1, 2, 3]),
    ],
)
def test_split_of_local_devices(devices, actors, learners, want_actors, want_learners):
    config = TopologyConfig(actor_devices_per_process=actors, learner_devices_per_process=learners)
    topology = make_topology(config, jax.devices()[:devices])
    assert [d.id for d in topology.local_actor_devices] == want_actors
    assert [d.id for d in topology.learner.devices.flat] == want_learners
    assert topology.mesh.axis_names == ("process", "device")
    assert topology.actor.axis_names == ("actor",)
    assert topology.learner.axis_names == ("data", "model")


def test_every_process_splits_its_own_devices():
    devices = [FakeDevice(i, process_index=i // 4) for i in reversed(range(8))]
    config = TopologyConfig(actor_devices_per_process=1, learner_devices_per_process=3, model_devices=3)
    topology = make_topology(config, devices, process_index=1)
    assert topology.mesh.shape == {"process": 2, "device": 4}
    assert [d.id for d in topology.actor.devices.flat] == [0, 4]
    assert [[d.id for d in row] for row in topology.learner.devices] == [[1, 2, 3], [5, 6, 7]]
    assert [d.id for d in topology.local_learner.devices.flat] == [5, 6, 7]
    assert [d.id for d in topology.local_actor_devices] == [4]


def test_uneven_processes_are_refused():
    devices = [FakeDevice(0, 0), FakeDevice(1, 0), FakeDevice(2, 1)]
    with pytest.raises(ConfigError, match="process 0: 2, process 1: 1"):
        make_topology(TopologyConfig(), devices)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TopologyConfig(actor_devices_per_process=5), "actor_devices_per_process=5 does not fit.* has 4 devices"),
        (TopologyConfig(learner_devices_per_process=9), "learner_devices_per_process=9 does not fit"),
        (TopologyConfig(model_devices=3), "model_devices=3 does not divide the 2 learner devices"),
    ],
)
def test_errors_name_the_numbers(config, message):
    with pytest.raises(ConfigError, match=message):
        make_topology(config, jax.devices()[:4])


def test_rules_lay_out_by_path_and_the_first_match_wins():
    mesh = make_topology(TopologyConfig(learner_devices_per_process=8, model_devices=4)).learner
    params = {"dense": {"kernel": jnp.zeros((8, 16)), "bias": jnp.zeros(16)}, "head": {"kernel": jnp.zeros((16, 3))}}
    rules = [("dense/kernel", P(None, "model")), ("kernel", P("data"))]
    shardings = tree_sharding(mesh, params, rules)
    assert shardings["dense"]["kernel"].spec == P(None, "model")
    assert shardings["head"]["kernel"].spec == P("data")
    assert shardings["dense"]["bias"].spec == P()


def test_rules_that_cannot_work_are_refused():
    mesh = make_topology(TopologyConfig(learner_devices_per_process=8, model_devices=4)).learner
    params = {"head": {"kernel": jnp.zeros((16, 3))}}
    with pytest.raises(ConfigError, match="'nothing' decides about no parameter"):
        tree_sharding(mesh, params, [("nothing", P("data"))])
    with pytest.raises(ConfigError, match=r"head/kernel has shape \(16, 3\): 3 does not divide over the 4 devices"):
        tree_sharding(mesh, params, [("kernel", P(None, "model"))])
