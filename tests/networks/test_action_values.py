"""The network of action values: its heads, its normalisation, masks, and step against unroll."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from podrl.actions import ContinuousActions, DiscreteActions
from podrl.config.config import ConfigError, NetworkConfig
from podrl.networks.action_values import make_q_network
from podrl.types import ACTION_MASK, VECTOR, EnvSpec
from tests.networks.test_actor_critic import MEMORY, make_spec, random_unroll, timestep_of

VECTORS = make_spec((5,), jnp.float32, num_actions=4)
MASKED = EnvSpec(
    id="masked",
    observation={VECTOR: jax.ShapeDtypeStruct((5,), jnp.float32), ACTION_MASK: jax.ShapeDtypeStruct((4,), jnp.bool_)},
    actions=DiscreteActions(4),
)


def start(network, spec, rows=6, batch=3):
    """Parameters and a trajectory, from a carry in the middle of an episode."""
    trajectory, rng = random_unroll(network, spec, rows, batch), np.random.default_rng(6)
    carry = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), trajectory.carry)
    return jax.jit(network.init)(jax.random.key(0)), dataclasses.replace(trajectory, carry=carry)


@pytest.mark.parametrize("asked", [{}, {"dueling": True, "normalization": "layer"}], ids=["plain", "dueling"])
@pytest.mark.parametrize("memory", [{}, MEMORY], ids=["forgets", "remembers"])
def test_step_equals_unroll_and_rows(memory, asked):
    """R2D2 unrolls T+1 rows from a stored carry, and reads what a step gave."""
    network = make_q_network(NetworkConfig(frame_stack=3, **memory), VECTORS, **asked)
    params, trajectory = start(network, VECTORS)
    unrolled, last_carry = jax.device_get(jax.jit(network.unroll)(params, trajectory))
    assert (unrolled.q_values.shape, unrolled.q_values.dtype) == ((6, 3, 4), np.float32)
    assert np.std(unrolled.q_values) > 1e-3
    np.testing.assert_array_equal(unrolled.value, unrolled.q_values.max(axis=-1))
    step, remember, carry = jax.jit(network.step), jax.jit(network.remember), trajectory.carry
    for t in range(6):
        output, carry = step(params, timestep_of(trajectory, t), carry)
        carry = remember(carry, trajectory.action[t]) if t < 5 else carry
        np.testing.assert_allclose(output.q_values, unrolled.q_values[t], rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), carry, last_carry)
    assert (network.rows is None) == bool(memory)
    if network.rows is not None:
        chosen = np.array([[0, 5, 2], [3, 3, 0]], np.int32)
        found = jax.jit(network.rows)(params, trajectory, chosen).q_values
        np.testing.assert_allclose(found, unrolled.q_values[chosen, np.arange(3)], rtol=1e-4, atol=1e-5)


def test_values_of_forbidden_actions_are_never_the_largest_and_get_no_gradient():
    network = make_q_network(NetworkConfig(), MASKED)
    params, trajectory = start(network, MASKED)
    mask = np.ones((6, 3, 4), bool)
    mask[..., 1] = False
    trajectory.observation[ACTION_MASK] = mask
    params["q"]["bias"] = params["q"]["bias"].at[1].set(1e6)
    output, _ = jax.jit(network.unroll)(params, trajectory)
    assert np.isneginf(output.q_values[..., 1]).all()
    assert (np.asarray(output.value) < 1e4).all()
    gradient = jax.jit(jax.grad(lambda p: network.unroll(p, trajectory)[0].value.sum()))(params)
    np.testing.assert_array_equal(gradient["q"]["kernel"][:, 1], 0.0)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


def test_a_dueling_heads_advantages_have_no_mean():
    """The mean over actions is the value; adding to all advantages changes nothing."""
    network = make_q_network(NetworkConfig(), VECTORS, dueling=True)
    params, trajectory = start(network, VECTORS)
    unroll = jax.jit(network.unroll)
    before = np.asarray(unroll(params, trajectory)[0].q_values)
    head = params["dueling"]
    head["advantage"]["bias"] += 7.0
    np.testing.assert_allclose(unroll(params, trajectory)[0].q_values, before, rtol=1e-4, atol=1e-5)
    head["value"]["bias"] += 7.0
    np.testing.assert_allclose(unroll(params, trajectory)[0].q_values, before + 7, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("encoder", "shape", "layers"),
    [("resnet", (13, 12, 2), 14), ("nature", (36, 38, 1), 4), ("minatar", (3, 4, 2), 2), ("mlp", (5,), 2)],
)
def test_every_activation_has_its_normalisation(encoder, shape, layers):
    """Whose scale then hides that of the layer before: here a thousand times larger weights change nothing."""
    spec, config = make_spec(shape, jnp.uint8 if len(shape) == 3 else jnp.float32), NetworkConfig(encoder=encoder)
    network = make_q_network(config, spec, normalization="layer")
    params = jax.eval_shape(network.init, jax.random.key(0))
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    assert sum("LayerNorm" in name and "scale" in name for name in names) == layers
    plain = jax.eval_shape(make_q_network(config, spec).init, jax.random.key(0))
    without = [name for name in names if "LayerNorm" not in name]
    assert without == [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(plain)]


@pytest.mark.parametrize(("normalization", "same"), [("layer", True), ("none", False)])
def test_the_scale_of_a_layer_is_normalised(normalization, same):
    network = make_q_network(NetworkConfig(activation="tanh"), VECTORS, normalization=normalization)
    params, trajectory = start(network, VECTORS)
    unroll = jax.jit(network.unroll)
    before = unroll(params, trajectory)[0].q_values
    params["encoder"]["Dense_0"] = jax.tree.map(lambda x: 1000 * x, params["encoder"]["Dense_0"])
    after = unroll(params, trajectory)[0].q_values
    assert np.allclose(before, after, rtol=1e-2, atol=1e-3) == same


def test_values_are_float32_whatever_is_computed_in():
    network = make_q_network(NetworkConfig(compute_dtype="bfloat16"), VECTORS, dueling=True, normalization="layer")
    params, trajectory = start(network, VECTORS)
    output, _ = jax.eval_shape(network.unroll, params, trajectory)
    assert output.q_values.dtype == jnp.float32
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))


def test_what_a_network_of_action_values_cannot_be_is_said():
    with pytest.raises(ConfigError, match=r"network\.separate_value=True has no meaning"):
        make_q_network(NetworkConfig(separate_value=True), VECTORS)
    with pytest.raises(ValueError, match="normalization='batch'; expected 'layer' or 'none'"):
        make_q_network(NetworkConfig(), VECTORS, normalization="batch")
    with pytest.raises(ValueError, match="needs DiscreteActions"):
        make_q_network(NetworkConfig(), dataclasses.replace(VECTORS, actions=ContinuousActions(2)))
