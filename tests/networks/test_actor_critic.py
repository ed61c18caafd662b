"""Whole networks: sizes, step against unroll, compute types, config errors, and sharding."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from podrl.config import ConfigError, NetworkConfig
from podrl.networks import make_network
from podrl.types import EnvSpec

COLLECTIVES = ("all-gather", "all-to-all", "collective-permute", "all-reduce", "reduce-scatter")


def make_spec(shape, dtype=jnp.uint8, num_actions=18):
    return EnvSpec(id="Test-v0", observation=jax.ShapeDtypeStruct(shape, dtype), num_actions=num_actions)


def random_unroll(spec, length, batch):
    """Observations [T, B, ...] and `first` [T, B], some of it true, row 0 not."""
    frame = spec.observation
    observation = jax.random.uniform(jax.random.key(1), (length, batch, *frame.shape), maxval=255.0)
    first = jax.random.bernoulli(jax.random.key(2), 0.3, (length, batch)).at[0].set(False)
    return observation.astype(frame.dtype), first


@pytest.mark.parametrize(
    ("encoder", "width", "expected"), [("resnet", 1, 1_094_115), ("resnet", 2, 2_376_627), ("nature", 1, 1_693_875)]
)
def test_parameter_count_on_atari(encoder, width, expected):
    network = make_network(NetworkConfig(encoder=encoder, width=width, frame_stack=4), make_spec((84, 84, 1)))
    params = jax.eval_shape(network.init, jax.random.key(0))
    assert type(params) is dict
    assert set(params) == {"encoder", "policy", "value"}
    assert sum(x.size for x in jax.tree.leaves(params)) == expected


@pytest.mark.parametrize("frame_stack", [1, 3])
@pytest.mark.parametrize(
    ("encoder", "shape"), [("resnet", (13, 12, 2)), ("nature", (36, 38, 1)), ("mlp", (5,)), ("mlp", (4, 3, 2))]
)
def test_step_equals_unroll(encoder, shape, frame_stack):
    spec = make_spec(shape, jnp.uint8 if len(shape) == 3 else jnp.float32, num_actions=4)
    network = make_network(NetworkConfig(encoder=encoder, frame_stack=frame_stack), spec)
    params = jax.jit(network.init)(jax.random.key(0))
    observation, first = random_unroll(spec, 4, 3)
    unrolled, last_carry = jax.jit(network.unroll)(params, observation, first, network.initial_carry(3))
    assert unrolled.logits.shape == (4, 3, 4)
    assert unrolled.value.shape == (4, 3)
    assert np.std(unrolled.value) > 1e-3
    carry, step = network.initial_carry(3), jax.jit(network.step)
    for t in range(4):
        output, carry = step(params, observation[t], first[t], carry)
        np.testing.assert_allclose(output.logits, unrolled.logits[t], atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(output.value, unrolled.value[t], atol=1e-5, rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, carry, last_carry)


@pytest.mark.parametrize("encoder", ["resnet", "nature", "mlp"])
def test_bfloat16_keeps_float32_params_and_outputs(encoder):
    spec = make_spec((36, 36, 1), num_actions=4)
    config = NetworkConfig(encoder=encoder, compute_dtype="bfloat16")
    network, exact = make_network(config, spec), make_network(NetworkConfig(encoder=encoder), spec)
    params = jax.jit(network.init)(jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    arguments = (params, *random_unroll(spec, 2, 2), ())
    output, expected = network.unroll(*arguments)[0], exact.unroll(*arguments)[0]
    assert output.logits.dtype == output.value.dtype == jnp.float32
    assert not np.array_equal(output.value, expected.value)
    np.testing.assert_allclose(output.value, expected.value, atol=0.05, rtol=0.05)


def test_pixels_are_scaled_and_floats_are_not():
    pixels = make_network(NetworkConfig(), make_spec((6,), jnp.uint8))
    floats = make_network(NetworkConfig(), make_spec((6,), jnp.float32))
    params = pixels.init(jax.random.key(0))
    bytes_ = jnp.array([[0, 51, 102, 153, 204, 255]], jnp.uint8)
    first = jnp.zeros(1, bool)
    expected, _ = floats.step(params, bytes_ / 255, first, ())
    np.testing.assert_allclose(pixels.step(params, bytes_, first, ())[0].value, expected.value, rtol=1e-6)


def test_new_policy_is_nearly_uniform():
    spec = make_spec((84, 84, 1))
    network = make_network(NetworkConfig(encoder="nature"), spec)
    output, _ = network.unroll(jax.jit(network.init)(jax.random.key(0)), *random_unroll(spec, 1, 2), ())
    assert 0 < np.abs(output.logits).max() < 0.1


@pytest.mark.parametrize(
    ("config", "shape", "expected"),
    [
        (
            NetworkConfig(encoder="nature"),
            (50,),
            "network.encoder='nature' needs images [H, W, C] of at least 36x36; env.id='Test-v0' gives (50,). "
            "Use network.encoder='mlp'.",
        ),
        (
            NetworkConfig(encoder="nature"),
            (35, 84, 1),
            "network.encoder='nature' needs images [H, W, C] of at least 36x36; env.id='Test-v0' gives (35, 84, 1). "
            "Use network.encoder='mlp'.",
        ),
        (
            NetworkConfig(encoder="resnet"),
            (84, 84),
            "network.encoder='resnet' needs images [H, W, C]; env.id='Test-v0' gives (84, 84). "
            "Use network.encoder='mlp'.",
        ),
        (
            NetworkConfig(frame_stack=2),
            (),
            "network.frame_stack=2 needs observations with at least one axis; env.id='Test-v0' gives a scalar. "
            "Use network.frame_stack=1.",
        ),
    ],
)
def test_config_errors(config, shape, expected):
    with pytest.raises(ConfigError) as error:
        make_network(config, make_spec(shape))
    assert str(error.value) == expected


def test_dictionary_observation_is_a_config_error():
    spec = EnvSpec(id="Test-v0", observation={"a": jax.ShapeDtypeStruct((3,), jnp.float32)}, num_actions=2)
    with pytest.raises(ConfigError, match=r"one array per observation.*env\.observation_keys"):
        make_network(NetworkConfig(), spec)


def print_compiled_unroll():
    """Run in a process of its own with 8 devices: prints the compiled unroll with environments sharded over them."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = lambda *spec: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))  # noqa: E731
    spec = make_spec((13, 12, 1), num_actions=4)
    network = make_network(NetworkConfig(encoder="resnet", frame_stack=4), spec)
    arguments = (jax.eval_shape(network.init, jax.random.key(0)), *random_unroll(spec, 3, 16))
    shardings = (sharding(), sharding(None, "data"), sharding(None, "data"), sharding("data"))
    unroll = lambda *arguments: network.unroll(*arguments)[0]  # noqa: E731
    compiled = jax.jit(unroll, in_shardings=shardings).lower(*arguments, network.initial_carry(16)).compile()
    print(compiled.as_text())  # noqa: T201


def test_sharded_unroll_moves_nothing_between_devices():
    program = "from tests.networks.test_actor_critic import print_compiled_unroll; print_compiled_unroll()"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert "u8[3,2,13,12,1]" in result.stdout  # One device's share of the environments.
    assert not [name for name in COLLECTIVES if name in result.stdout]
