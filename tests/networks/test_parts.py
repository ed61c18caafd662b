"""Observations of several parts: what each encoder sees, what is stacked, and masks on the way to the policy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from podrl.actions import DiscreteActions
from podrl.agents.parts.normalization import normalize_observations
from podrl.config.config import ConfigError, NetworkConfig
from podrl.networks.actor_critic import make_actor_critic
from podrl.networks.observation import encoders_of_parts
from podrl.types import ACTION_MASK, VECTOR, EnvSpec
from tests.networks.test_actor_critic import MEMORY, check_step_equals_unroll, random_unroll

CAMERA, JOINTS = jax.ShapeDtypeStruct((36, 38, 1), jnp.uint8), jax.ShapeDtypeStruct((3,), jnp.float32)
MASK = jax.ShapeDtypeStruct((4,), jnp.bool_)


def spec_of(**parts):
    return EnvSpec(id="Test-v0", observation=parts, actions=DiscreteActions(4))


BOTH = spec_of(**{"eyes/left": CAMERA, VECTOR: JOINTS})


def unrolled(spec, config, rows=6, batch=4):
    network = make_actor_critic(config, spec)
    trajectory = random_unroll(network, spec, rows, batch)
    params = network.init(jax.random.key(0))
    return network, params, trajectory


@pytest.mark.parametrize("memory", [{}, MEMORY], ids=["forgets", "remembers"])
@pytest.mark.parametrize("encoder", ["nature", "mlp"])
def test_step_equals_unroll(encoder, memory):
    spec = spec_of(**{"eyes/left": CAMERA, VECTOR: JOINTS, ACTION_MASK: MASK})
    check_step_equals_unroll(make_actor_critic(NetworkConfig(encoder=encoder, frame_stack=3, **memory), spec), spec)


def test_only_images_are_stacked():
    carry = make_actor_critic(NetworkConfig(encoder="nature", frame_stack=3), BOTH).initial_carry(5)
    assert {name: np.shape(part) for name, part in carry.frames.items()} == {
        "eyes/left": (5, 36, 38, 2),
        VECTOR: (0,),
    }


@pytest.mark.parametrize("part", ["eyes/left", VECTOR])
def test_policy_and_value_depend_on_every_part(part):
    network, params, trajectory = unrolled(BOTH, NetworkConfig(encoder="nature"))
    other = {**trajectory.observation, part: trajectory.observation[part][::-1]}
    outputs = [
        network.unroll(params, dataclasses.replace(trajectory, observation=seen))[0]
        for seen in (trajectory.observation, other)
    ]
    assert all((x != y).any() for x, y in zip(*map(jax.tree.leaves, outputs), strict=True))


def test_what_an_image_means_may_depend_on_the_vector():
    """The heads are linear, so that without a layer over both, each part would add its own share."""
    network, params, trajectory = unrolled(BOTH, NetworkConfig(encoder="nature"))
    image, vector = trajectory.observation["eyes/left"], trajectory.observation[VECTOR]

    def value(image, vector):
        seen = {"eyes/left": image, VECTOR: vector}
        return network.unroll(params, dataclasses.replace(trajectory, observation=seen))[0].value

    changed = value(image[::-1], vector) - value(image, vector)
    changed_beside_other = value(image[::-1], vector[::-1]) - value(image, vector[::-1])
    assert np.abs(changed - changed_beside_other).max() > 0.01 * np.abs(changed).max()


def test_an_mlp_sees_all_parts_as_one_vector():
    """As it sees them where `env.parts='joined'`."""
    config = NetworkConfig(hidden_sizes=(16,))
    network, params, trajectory = unrolled(BOTH, config)
    joined = EnvSpec(id="A", observation=jax.ShapeDtypeStruct((36 * 38 + 3,), jnp.float32), actions=BOTH.actions)
    parts = [trajectory.observation["eyes/left"] / np.float32(255), trajectory.observation[VECTOR]]
    flat = np.concatenate([part.reshape(*part.shape[:2], -1) for part in parts], axis=-1)
    alone = make_actor_critic(config, joined)
    carry = alone.initial_carry(flat.shape[1])
    expected, _ = alone.unroll(
        {**params, "encoder": params["encoder"]["others"]},
        dataclasses.replace(trajectory, observation=flat, carry=carry),
    )
    found, _ = network.unroll(params, trajectory)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), found, expected)


def test_each_part_has_the_encoder_that_a_key_names():
    config = NetworkConfig(encoder="nature", parts=("map: minatar",))
    spec = spec_of(camera=CAMERA, map=jax.ShapeDtypeStruct((5, 5, 2), jnp.float32), **{VECTOR: JOINTS})
    assert encoders_of_parts(config, spec) == {"camera": "nature", "map": "minatar", VECTOR: "mlp"}
    params = jax.eval_shape(make_actor_critic(config, spec).init, jax.random.key(0))
    assert sorted(params["encoder"]) == ["fused", "images_camera", "images_map", "others"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("vektor: mlp",), r"network.parts names 'vektor', .*eyes/left, vector; did you mean 'vector'"),
        (("vector: cnn",), r"write 'PART: ENCODER' with an encoder of resnet, nature, minatar, drq, mlp"),
        (
            ("vector: nature",),
            r"'nature' needs images .* gives \(3,\) as 'vector'. Use network.parts=\('vector: mlp',\)",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts, message):
    with pytest.raises(ConfigError, match=message):
        make_actor_critic(NetworkConfig(encoder="nature", parts=parts), BOTH)


def test_an_image_that_is_too_small_names_its_part():
    spec = spec_of(map=jax.ShapeDtypeStruct((5, 5, 2), jnp.uint8), **{VECTOR: JOINTS})
    with pytest.raises(ConfigError, match=r"of at least 36x36; .* gives \(5, 5, 2\) as 'map'"):
        make_actor_critic(NetworkConfig(encoder="nature"), spec)


def test_a_mask_is_on_the_policy_of_every_row_and_on_nothing_else():
    masked = spec_of(**{VECTOR: JOINTS, ACTION_MASK: MASK})
    config = NetworkConfig(hidden_sizes=(16,), frame_stack=2)
    network, params, trajectory = unrolled(masked, config)
    mask = np.random.default_rng(3).random((6, 4, 4)) < 0.5
    mask[..., 2] = True
    seen = dataclasses.replace(trajectory, observation={**trajectory.observation, ACTION_MASK: mask})
    plain = make_actor_critic(config, EnvSpec(id="A", observation=JOINTS, actions=DiscreteActions(4)))
    bare = dataclasses.replace(trajectory, observation=trajectory.observation[VECTOR])
    expected, _ = plain.unroll(params, bare)
    found, _ = network.unroll(params, seen)
    np.testing.assert_array_equal(found.policy, np.where(mask, expected.policy, -np.inf))
    np.testing.assert_array_equal(found.value, expected.value)

    chosen = np.array([[0, 2, 1, 5], [3, 3, 4, 0]], np.int32)
    some = network.rows(params, seen, chosen)
    np.testing.assert_allclose(some.policy, np.take_along_axis(found.policy, chosen[..., None], 0), rtol=1e-5)


def test_images_of_uint8_are_not_normalised():
    with pytest.raises(ConfigError, match=r"needs observations of floats; env.id='Test-v0' gives uint8"):
        normalize_observations(None, spec_of(left=CAMERA, right=CAMERA))
