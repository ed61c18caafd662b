import dataclasses
import itertools
import types

import jax
import numpy as np
import pytest

from podrl.actions import DiscreteActions
from podrl.assembly import make_split_agent
from podrl.config.config import ConfigError, TopologyConfig
from podrl.envs.seeds import env_seeds
from podrl.experience.layout import make_layout
from podrl.learning.learner import Learner
from podrl.learning.micro_batches import resolve_partition
from podrl.mesh import make_topology
from podrl.types import EnvSpec
from tests.short_runs import make_agent_update, make_config, random_trajectory
from tests.test_mesh import FakeDevice


def micro_batches(num_devices=1, **overrides):
    topology = make_topology(TopologyConfig(learner_devices_per_process=num_devices), jax.devices()[:num_devices])
    config = resolve_partition(make_config(**overrides), topology)
    make_layout(config, topology)
    return config.topology.micro_batches


UNROLLED = {"network__encoder": "resnet", "network__compute_dtype": "bfloat16"}
NATURE = {"network__encoder": "nature", "network__compute_dtype": "float32"}


@pytest.mark.parametrize(
    ("expected", "num_devices", "overrides"),
    [
        (8, 1, {"agent__minibatches": 2}),  # 32 environments of 20 steps in a minibatch: parts of 4.
        (16, 1, {}),
        (4, 4, {}),
        (4, 1, {"actors__unroll_length": 5}),  # Parts of 16.
        (16, 1, {"actors__unroll_length": 200}),  # As small as the number of parts allows.
        (8, 1, {"actors__num_envs": 512, "agent__minibatches": 2}),
        (2, 1, {"actors__num_envs": 62}),  # 2, 31 or 62 parts are possible.
        (16, 1, NATURE | {"agent__minibatches": 2}),  # In a loop: parts of 2 environments.
        (32, 1, NATURE | {"actors__unroll_length": 10, "actors__num_envs": 128}),  # More than 16.
        (4, 1, NATURE | {"agent__minibatches": 2, "topology__micro_batch_loop": "unrolled"}),
        (4, 1, NATURE | {"network__core": "lstm", "agent__minibatches": 2}),
        (4, 2, NATURE),  # Two devices: unrolled, parts of 8 environments.
        (1, 1, {"network__encoder": "mlp"}),
        (2, 1, {"topology__micro_batches": 2}),
        (32, 1, {"network__compute_dtype": "float32"}),
        # Each of 8 optimizer steps in an update is a copy of the network already, or one is in a loop.
        (4, 1, {"agent": "ppo", "agent__epochs": 2}),
        (16, 1, {"agent": "ppo", "agent__epochs": 2, "agent__minibatches": 1, "topology__step_loop": "rolled"}),
        # 64 environments of 8 rows in a minibatch: parts of 8.
        (
            8,
            1,
            {
                "agent": "ppo",
                "agent__shuffle": "time",
                "agent__epochs": 1,
                "agent__minibatches": 2,
                "actors__unroll_length": 16,
            },
        ),
    ],
)
def test_a_cpu_learner_takes_images_in_small_parts(expected, num_devices, overrides):
    overrides = {"actors__num_envs": 64, "actors__unroll_length": 20, **UNROLLED} | overrides
    assert micro_batches(num_devices, **overrides) == expected


@pytest.mark.parametrize("encoder", ["mlp", "minatar", "nature", "resnet"])
def test_so_does_one_that_has_them_as_parts_of_an_observation(encoder):
    sizes, part = {"actors__num_envs": 64, "actors__unroll_length": 20}, {"network__parts": (f"eye: {encoder}",)}
    for dtype in ("float32", "bfloat16"):
        settings = sizes | {"network__compute_dtype": dtype}
        alone = micro_batches(network__encoder=encoder, **settings)
        assert micro_batches(network__encoder="mlp", **part, **settings) == alone
        smallest = "resnet" if encoder == "resnet" else "nature"
        expected = micro_batches(network__encoder=smallest, **settings)
        assert micro_batches(network__encoder="nature", **part, **settings) == expected


def test_fewer_environments_than_minibatches_are_one_clear_mistake():
    few = {"agent": "ppo", "agent__shuffle": "environments", "agent__minibatches": 4, "actors__num_envs": 2}
    with pytest.raises(ConfigError, match=r"actors\.num_envs=2 does not divide"):
        micro_batches(network__encoder="nature", **few)


def test_what_the_user_set_is_checked():
    with pytest.raises(ConfigError, match=r"topology\.micro_batches=3 does not divide the 64 environments"):
        micro_batches(actors__num_envs=64, topology__micro_batches=3)


def test_other_backends_take_a_batch_whole():
    gpu = types.SimpleNamespace(platform="gpu")
    learner = types.SimpleNamespace(shape={"data": 1}, devices=np.array([gpu]))
    config = make_config(network__encoder="nature", actors__num_envs=64, actors__unroll_length=20)
    resolved = resolve_partition(config, types.SimpleNamespace(learner=learner))
    assert resolved.topology.micro_batches == 1


@pytest.mark.parametrize(("model_devices", "loop"), [(1, "rolled"), (2, "unrolled")])
def test_weight_gradients_that_are_convolutions_are_not_in_a_loop(model_devices, loop):
    """Those of a network whose layers are split over devices."""
    split = TopologyConfig(learner_devices_per_process=2, model_devices=model_devices)
    topology = make_topology(split, jax.devices()[:2])
    config = dataclasses.replace(make_config(agent="ppo", network__encoder="resnet"), topology=split)
    config = resolve_partition(config, topology)
    assert config.topology.step_loop == loop

    spec = EnvSpec(id="images", observation=jax.ShapeDtypeStruct((20, 20, 3), np.uint8), actions=DiscreteActions(3))
    agent, rules = make_split_agent(config, spec, topology.learner)
    state = Learner(agent, topology.learner, rules).state_shape
    batch = random_trajectory(agent, spec, length=2, num_envs=config.actors.num_envs)
    lowered = jax.jit(make_agent_update(agent)).lower(state, batch).as_text()
    product_of_16_channels = "tensor<48x48xf32>"
    assert (product_of_16_channels in lowered) == (loop == "rolled")


@pytest.mark.parametrize("encoder", ["mlp", "nature", "resnet"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_cpu_learner_spares_convolutions_that_are_no_products_the_loop(encoder, dtype):
    topology = make_topology(TopologyConfig(), jax.devices()[:1])
    loop = "rolled" if encoder == "mlp" or dtype == "float32" else "unrolled"
    config = make_config(agent="ppo", network__encoder=encoder, network__compute_dtype=dtype)
    assert resolve_partition(config, topology).topology.step_loop == loop
    set_by_user = make_config(agent="ppo", network__encoder=encoder, topology__step_loop="rolled")
    assert resolve_partition(set_by_user, topology).topology.step_loop == "rolled"


@pytest.mark.parametrize(
    ("encoder", "num_devices", "loop"),
    [("mlp", 1, "rolled"), ("nature", 1, "rolled"), ("nature", 2, "unrolled"), ("resnet", 1, "rolled")],
)
def test_parts_are_a_loop_where_it_costs_neither_speed_nor_reductions(encoder, num_devices, loop):
    topology = make_topology(TopologyConfig(learner_devices_per_process=num_devices), jax.devices()[:num_devices])
    for agent in ("impala", "ppo"):
        config = make_config(agent=agent, network__encoder=encoder)
        assert resolve_partition(config, topology).topology.micro_batch_loop == loop
        by_user = make_config(agent=agent, network__encoder=encoder, topology__micro_batch_loop="unrolled")
        assert resolve_partition(by_user, topology).topology.micro_batch_loop == "unrolled"


def test_minibatches_of_rows_need_rows_that_divide_and_any_number_of_environments():
    topology = make_topology(TopologyConfig(), jax.devices()[:1])
    rows = {"agent": "ppo", "agent__shuffle": "time", "agent__minibatches": 32, "actors__num_envs": 6}
    assert make_layout(make_config(actors__unroll_length=64, **rows), topology).envs_per_pool == 3
    with pytest.raises(ConfigError, match=r"actors\.unroll_length=48 does not divide into agent\.minibatches=32 parts"):
        make_layout(make_config(actors__unroll_length=48, **rows), topology)
    with pytest.raises(ConfigError, match=r"actors\.num_envs=6 does not divide .* agent\.minibatches=32"):
        make_layout(make_config(actors__unroll_length=64, **rows | {"agent__shuffle": "environments"}), topology)
    smoke = make_config(actors__unroll_length=64, smoke=True, agent__epochs=10, **rows)
    assert (smoke.actors.unroll_length, smoke.agent.epochs, smoke.agent.minibatches) == (32, 1, 32)


@pytest.mark.parametrize("num_processes", [1, 2, 4])
def test_every_environment_of_the_job_is_in_one_pool_of_one_process_with_a_seed_of_its_own(num_processes):
    config = make_config(actors__num_envs=64, actors__threads_per_device=2)
    devices = [FakeDevice(id=i, process_index=i % num_processes) for i in range(4)]
    pools = []
    for process in range(num_processes):
        topology = make_topology(config.topology, devices, process_index=process)
        layout = make_layout(config, topology)
        for actor, pool in itertools.product(range(layout.num_actors), range(layout.pools_per_actor)):
            pools.append([int(env) for env in layout.env_indices(process, actor, pool)])
    assert sorted(env for pool in pools for env in pool) == list(range(64))
    assert len({seed for pool in pools for seed in env_seeds(config.seed, pool)}) == 64
