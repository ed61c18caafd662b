"""Minibatches hold what they should on any number of devices, and micro-batches add up to the whole batch.

That taking them moves nothing between devices is seen here and, within whole updates, in
tests/learning/test_learner.py.
"""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from podrl.config.config import ConfigError
from podrl.ops.minibatches import (
    accumulate_gradients,
    deal_environments,
    deal_rows,
    split_environments,
    take_environments,
    take_rows,
)
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


@pytest.mark.parametrize("rolled", [False, True])
@pytest.mark.parametrize("num", [2, 4])
def test_parts_add_up_to_the_whole(num, rolled):
    params, trajectory = make_params(), make_trajectory()
    whole = accumulate_gradients(loss_fn, params, trajectory, 1)
    parts = accumulate_gradients(loss_fn, params, trajectory, num, rolled=rolled)
    assert jax.tree.structure(whole) == jax.tree.structure(parts)
    assert abs(whole[1]["w"]).max() > 1e-3
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), whole, parts)


@pytest.mark.parametrize("rolled", [False, True])
def test_parts_are_computed_one_after_the_other(rolled):
    """Activations of several parts at once would take as much memory as the whole batch."""

    def wide_loss(params, trajectory):
        hidden = jnp.tanh(trajectory.observation["vector"][..., None] * params["wide"])
        return jnp.sum(jnp.tanh(hidden @ params["square"])), {}

    params = {"wide": jnp.ones(256), "square": jnp.eye(256)}

    def temporaries(num):
        compute = jax.jit(lambda *arguments: accumulate_gradients(wide_loss, *arguments, num, rolled=rolled))
        return compute.lower(params, make_trajectory(64, 64)).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(8) < temporaries(1) / 3


def test_a_loop_of_parts_is_one_copy_of_the_network():
    def copies(rolled):
        compute = jax.jit(lambda *arguments: accumulate_gradients(loss_fn, *arguments, 8, rolled=rolled))
        return compute.lower(make_params(), make_trajectory()).compile().as_text().count(" tanh(")

    assert copies(rolled=True) == copies(rolled=False) / 8


@pytest.mark.parametrize("rolled", [False, True])
def test_parts_must_divide_the_environments(rolled):
    with pytest.raises(ConfigError, match="16 environments do not divide into 3 parts"):
        accumulate_gradients(loss_fn, make_params(), make_trajectory(), 3, rolled=rolled)


def test_split_takes_every_environment_once():
    trajectory = make_trajectory()
    parts = split_environments(trajectory, 4)
    for m, part in enumerate(parts):
        expected = jax.tree.map(lambda x, m=m: x[:, m::4], trajectory.observation)
        jax.tree.map(np.testing.assert_array_equal, part.observation, expected)
        np.testing.assert_array_equal(part.action[0], np.arange(m, 16, 4))
        np.testing.assert_array_equal(part.carry[0], trajectory.carry[0][m::4])
        np.testing.assert_array_equal(part.opening_reward, trajectory.opening_reward[m::4])


def test_environments_are_dealt_once_each_within_groups_of_neighbours():
    trajectory, deals = make_trajectory(), []
    for seed in range(3):
        deal = deal_environments(jax.random.key(seed), trajectory.env_index, 4)
        parts = [take_environments(trajectory, members, 4) for members in deal]
        for part in parts:
            found = np.asarray(part.env_index)
            np.testing.assert_array_equal(found // 4, np.arange(4))  # One of each group.
            np.testing.assert_array_equal(part.carry[0], trajectory.carry[0][found])
            np.testing.assert_array_equal(part.observation["image"], trajectory.observation["image"][:, found])
        deals.append([np.asarray(part.env_index).tolist() for part in parts])
        assert sorted(env for part in deals[-1] for env in part) == list(range(16))
        assert len({tuple(row) for row in np.asarray(deal).T}) > 1, "groups are shuffled apart"
    assert deals[0] != deals[1] != deals[2]


def test_rows_are_dealt_once_each_in_an_order_of_each_environments_own():
    trajectory = make_trajectory(length=6)
    rows = deal_rows(jax.random.key(0), trajectory.env_index, 6, 3)
    assert (rows.shape, rows.dtype) == ((3, 2, 16), jnp.int32)
    orders = np.asarray(rows).reshape(6, 16)
    np.testing.assert_array_equal(np.sort(orders, axis=0), np.tile(np.arange(6)[:, None], 16))
    assert len({tuple(order) for order in orders.T}) > 8
    found = take_rows({"reward": trajectory.reward, "behaviour": trajectory.behaviour}, rows[1])
    for env in range(16):
        np.testing.assert_array_equal(found["reward"][:, env], trajectory.reward[rows[1, :, env], env])
        np.testing.assert_array_equal(found["behaviour"][:, env], trajectory.behaviour[rows[1, :, env], env])


def test_what_an_environment_is_dealt_depends_on_its_index_and_not_on_its_place():
    """Pools are joined in another order on another number of devices."""
    index = jnp.arange(16, dtype=jnp.uint32)
    moved = jnp.concatenate([index[8:12], index[:8], index[12:]])
    for deal in (lambda i: deal_rows(jax.random.key(0), i, 6, 3), lambda i: deal_environments(jax.random.key(0), i, 4)):
        dealt, dealt_moved = np.asarray(deal(index)), np.asarray(deal(moved))
        width = dealt.shape[-1] // 4
        np.testing.assert_array_equal(dealt_moved[..., :width], dealt[..., 2 * width : 3 * width])
        np.testing.assert_array_equal(dealt_moved[..., width : 3 * width], dealt[..., : 2 * width])


def test_rows_that_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match=r"actors\.unroll_length=5 does not divide into agent\.minibatches=2 parts"):
        deal_rows(jax.random.key(0), jnp.arange(4, dtype=jnp.uint32), 5, 2)


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
