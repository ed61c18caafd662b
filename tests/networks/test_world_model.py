"""The learned model: shapes, scales, masks, step against unroll, and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from podrl.actions import ContinuousActions, DiscreteActions
from podrl.config.config import ConfigError, NetworkConfig
from podrl.networks.model_records import ModelShape
from podrl.networks.world_model import make_model_network
from podrl.types import ACTION_MASK, VECTOR, EnvSpec
from tests.networks.test_actor_critic import MEMORY, make_spec, random_unroll, timestep_of

VECTORS = make_spec((5,), jnp.float32, num_actions=4)
IMAGES = make_spec((20, 18, 1), num_actions=3)
PARTS = {"camera": jax.ShapeDtypeStruct((9, 9, 1), jnp.uint8), VECTOR: jax.ShapeDtypeStruct((4,), jnp.float32)}
SMALL = {"num_bins": 7, "channels": 4, "blocks": (1, 1, 1)}
CASES = {
    "vector": (NetworkConfig(hidden_sizes=(16,), frame_stack=2), VECTORS, ModelShape(num_bins=7, size=6), (6,)),
    "memory": (NetworkConfig(hidden_sizes=(16,), **MEMORY), VECTORS, ModelShape(num_bins=7, size=6), (6,)),
    "image": (
        NetworkConfig(encoder="resnet", frame_stack=2),
        IMAGES,
        ModelShape(latent="image", **SMALL),
        (2, 2, 4),
    ),
}


@pytest.fixture(scope="module", params=["vector", "memory", pytest.param("image", marks=pytest.mark.slow)])
def case(request):
    config, spec, shape, latent = CASES[request.param]
    network = make_model_network(config, spec, shape)
    params = jax.jit(network.init)(jax.random.key(0))
    return network, moved(params), random_unroll(network, spec, 4, 3), latent


def moved(params):
    """Parameters none of which is zero, as those of heads are at first."""
    leaves, treedef = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    return treedef.unflatten([np.asarray(x) + rng.normal(size=x.shape).astype(np.float32) * 0.1 for x in leaves])


def test_latents_of_any_source_lie_between_zero_and_one_and_have_one_shape(case):
    network, params, trajectory, shape = case
    latent = jax.jit(network.unroll)(params, trajectory)[0].latent
    ahead = jax.jit(network.transition)(params, jnp.stack([latent, latent], 2), np.ones((4, 3, 2), np.int32))
    for found, leading in ((latent, (4, 3)), (ahead, (4, 3, 2))):
        assert (found.shape, found.dtype) == ((*leading, *shape), jnp.float32)
        by_state = np.asarray(found).reshape(*leading, -1)
        np.testing.assert_allclose(by_state.min(-1), 0.0, atol=1e-6)
        np.testing.assert_allclose(by_state.max(-1), 1.0, atol=1e-2)


def test_step_equals_unroll(case):
    network, params, trajectory, _ = case
    unrolled = jax.jit(network.unroll)(params, trajectory)[0].latent
    step, carry = jax.jit(network.step), trajectory.carry
    for t in range(4):
        found, carry = step(params, timestep_of(trajectory, t), carry)
        np.testing.assert_allclose(found.latent, unrolled[t], rtol=1e-3, atol=1e-4)
        carry = network.remember(carry, trajectory.action[t]) if t < 3 else carry


def test_what_is_predicted_and_followed_depends_on_the_state_and_the_action_alone(case):
    """And not on which others share the batch, nor on how its axes are laid out."""
    network, params, trajectory, _ = case
    latent = jax.jit(network.unroll)(params, trajectory)[0].latent
    actions = np.arange(12, dtype=np.int32).reshape(4, 3) % 3
    ahead = jax.jit(network.transition)(params, latent, actions)
    one = jax.jit(network.transition)(params, latent[2, 1], actions[2, 1])
    np.testing.assert_allclose(one, ahead[2, 1], rtol=1e-3, atol=1e-5)
    other = jax.jit(network.transition)(params, latent, (actions + 1) % 3)
    assert np.abs(np.asarray(other - ahead)).reshape(4, 3, -1).max(-1).min() > 1e-4
    whole, part = jax.jit(network.predict)(params, ahead), jax.jit(network.predict)(params, ahead[2, 1])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y[2, 1], rtol=1e-3, atol=1e-5), part, whole)
    assert (whole.value.shape, whole.reward.shape) == ((4, 3, 7), (4, 3, 7))
    assert whole.policy.shape == (4, 3, network.policy.num_params)


def test_a_new_model_predicts_zero_and_nearly_equal_actions(case):
    network, _, trajectory, _ = case
    params = jax.jit(network.init)(jax.random.key(1))
    output = jax.jit(lambda: network.predict(params, network.unroll(params, trajectory)[0].latent))()
    np.testing.assert_array_equal(output.value, 0.0)
    np.testing.assert_array_equal(output.reward, 0.0)
    assert 0 < np.abs(np.asarray(output.policy)).max() < 0.5


def test_the_mask_comes_with_the_state_and_forbids_actions():
    spec = EnvSpec(
        id="masked",
        observation={**PARTS, ACTION_MASK: jax.ShapeDtypeStruct((3,), jnp.bool_)},
        actions=DiscreteActions(3),
    )
    network = make_model_network(NetworkConfig(encoder="minatar"), spec, ModelShape(num_bins=3))
    params, trajectory = jax.jit(network.init)(jax.random.key(0)), random_unroll(network, spec, 4, 3)
    mask = np.random.default_rng(0).random((4, 3, 3)) < 0.5
    mask[..., 0] = True
    trajectory.observation[ACTION_MASK] = mask
    states = jax.jit(network.unroll)(params, trajectory)[0]
    np.testing.assert_array_equal(states.mask, mask)
    policy = network.predict(params, states.latent, states.mask).policy
    np.testing.assert_array_equal(np.isneginf(policy), ~mask)
    assert np.isfinite(network.predict(params, states.latent).policy).all()


def test_a_models_size_on_atari():
    network = make_model_network(
        NetworkConfig(encoder="resnet", frame_stack=4), make_spec((84, 84, 1)), ModelShape(num_bins=601, latent="image")
    )
    params = jax.eval_shape(network.init, jax.random.key(0))
    blocks = {name: sum("ResidualBlock" in key for key in part) for name, part in params.items()}
    assert blocks == {"representation": 3 + 6, "dynamics": 2, "prediction": 2}
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in params.items()}
    assert sizes["dynamics"] == (64 + 18) * 9 * 64 + 64 + 2 * (2 * (64 * 9 * 64 + 64) + 2 * 128)


@pytest.mark.parametrize(
    ("config", "spec", "said"),
    [
        ({"encoder": "resnet"}, VECTORS, "network.encoder='resnet' needs images"),
        ({}, VECTORS, "agent.latent='image' needs observations of one image; env.id='Test-v0' gives (5,)"),
        ({}, dataclasses.replace(IMAGES, observation=PARTS), "gives several parts. Use agent.latent=vector"),
        ({"encoder": "minatar"}, IMAGES, "not network.encoder='minatar'. Use network.encoder=resnet"),
        (
            {"encoder": "resnet", "core": "lstm"},
            IMAGES,
            "has no place for network.core='lstm'. Use agent.latent=vector",
        ),
        ({"encoder": "resnet", "last_action": True}, IMAGES, "has no place for network.last_action=True"),
        ({"encoder": "resnet", "separate_value": True}, IMAGES, "network.separate_value=True has no meaning"),
    ],
)
def test_what_a_model_cannot_be_is_said_in_one_line(config, spec, said):
    with pytest.raises(ConfigError) as caught:
        make_model_network(NetworkConfig(**config), spec, ModelShape(latent="image", **SMALL))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_needs_one_choice():
    with pytest.raises(ValueError, match="needs DiscreteActions"):
        make_model_network(
            NetworkConfig(), dataclasses.replace(VECTORS, actions=ContinuousActions(2)), ModelShape(num_bins=3)
        )
