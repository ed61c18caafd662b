"""Micro-batches add up to the whole batch, and taking them moves nothing between devices."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from podrl.ops.minibatches import accumulate_gradients, split_environments
from podrl.types import Trajectory

COLLECTIVES = ("all-gather", "all-to-all", "collective-permute", "all-reduce", "reduce-scatter")


def make_trajectory(length=3, batch=16):
    generator = np.random.default_rng(0)
    array = lambda *shape: jnp.array(generator.normal(size=shape), jnp.float32)  # noqa: E731
    return Trajectory(
        observation={"image": array(length + 1, batch, 5), "vector": array(length + 1, batch)},
        first=jnp.array(generator.random((length + 1, batch)) < 0.3),
        action=jnp.tile(jnp.arange(batch), (length, 1)),
        reward=array(length, batch),
        discount=array(length, batch),
        behaviour=array(length, batch, 2),
        carry=(array(batch, 4),),
        opening_reward=array(batch),
        env_index=jnp.arange(batch, dtype=jnp.uint32),
        params_version=jnp.zeros((length, batch), jnp.int32),
    )


def loss_fn(params, trajectory):
    prediction = jnp.tanh(trajectory.observation["image"][:-1] @ params["w"] + trajectory.carry[0] @ params["v"])
    errors = jnp.where(trajectory.is_transition, prediction - trajectory.reward, 0.0)
    return jnp.sum(errors**2) / 48, {"mean_error": jnp.sum(errors) / 48}


def make_params():
    return {"w": jnp.linspace(-1, 1, 5), "v": jnp.linspace(0, 1, 4)}


@pytest.mark.parametrize("num", [2, 4])
def test_parts_add_up_to_the_whole(num):
    params, trajectory = make_params(), make_trajectory()
    whole = accumulate_gradients(loss_fn, params, trajectory, 1)
    parts = accumulate_gradients(loss_fn, params, trajectory, num)
    assert jax.tree.structure(whole) == jax.tree.structure(parts)
    assert abs(whole[1]["w"]).max() > 1e-3
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), whole, parts)


def test_parts_are_computed_one_after_the_other():
    """Activations of several parts at once would take as much memory as the whole batch."""

    def wide_loss(params, trajectory):
        hidden = jnp.tanh(trajectory.observation["vector"][..., None] * params["wide"])
        return jnp.sum(jnp.tanh(hidden @ params["square"])), {}

    params = {"wide": jnp.ones(256), "square": jnp.eye(256)}

    def temporaries(num):
        compute = jax.jit(lambda params, trajectory: accumulate_gradients(wide_loss, params, trajectory, num))
        return compute.lower(params, make_trajectory(64, 64)).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(8) < temporaries(1) / 3


def test_split_takes_every_environment_once():
    trajectory = make_trajectory()
    parts = split_environments(trajectory, 4)
    for m, part in enumerate(parts):
        expected = jax.tree.map(lambda x, m=m: x[:, m::4], trajectory.observation)
        jax.tree.map(np.testing.assert_array_equal, part.observation, expected)
        np.testing.assert_array_equal(part.action[0], np.arange(m, 16, 4))
        np.testing.assert_array_equal(part.carry[0], trajectory.carry[0][m::4])
        np.testing.assert_array_equal(part.opening_reward, trajectory.opening_reward[m::4])


def print_compiled_split():
    """Run in a process of its own with 8 devices: prints the compiled split of a sharded trajectory."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = lambda *spec: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))  # noqa: E731
    trajectory = make_trajectory(batch=32)
    shardings = trajectory.map(lambda _: sharding(None, "data"), lambda _: sharding("data"))
    split = lambda trajectory: split_environments(trajectory, 2)  # noqa: E731
    print(jax.jit(split, in_shardings=(shardings,)).lower(trajectory).compile().as_text())  # noqa: T201


def test_split_moves_nothing_between_devices():
    program = "from tests.ops.test_minibatches import print_compiled_split; print_compiled_split()"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert "f32[4,2,5]" in result.stdout  # One device's share of one part.
    assert not [name for name in COLLECTIVES if name in result.stdout]
