"""Networks of continuous control: a policy alone, and two critics of single actions."""

import functools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from podrl.actions import ContinuousActions, DiscreteActions
from podrl.config.config import ConfigError, NetworkConfig
from podrl.networks.available import make_networks
from podrl.types import VECTOR, EnvSpec
from tests.networks.test_actor_critic import random_unroll, timestep_of

VECTORS = jax.ShapeDtypeStruct((4,), jnp.float32)
PARTS = {"camera": jax.ShapeDtypeStruct((5, 5, 2), jnp.uint8), VECTOR: VECTORS}
NETWORKS = {
    "vector": (VECTORS, NetworkConfig(hidden_sizes=(8, 8), frame_stack=2, last_action=True, last_reward=True)),
    "parts": (PARTS, NetworkConfig(encoder="minatar", hidden_sizes=(8,), squash_actions=True)),
}
LENGTH, BATCH, SIZE = 3, 4, 3


def make_spec(observation, actions=ContinuousActions(SIZE)):  # noqa: B008 (frozen)
    return EnvSpec(id="t", observation=observation, actions=actions)


@functools.cache
def case(kind):
    """Networks, parameters, a trajectory and five actions in each of its rows."""
    observation, config = NETWORKS[kind]
    spec = make_spec(observation)
    networks = make_networks(config, spec)
    policy, critic = networks.policy(), networks.twin_q()
    params = jax.jit(lambda: {**policy.init(jax.random.key(0)), **critic.init(jax.random.key(1))})()
    actions = np.random.default_rng(2).uniform(-1, 1, (LENGTH + 1, BATCH, 5, SIZE)).astype(np.float32)
    return policy, critic, params, random_unroll(policy, spec, LENGTH + 1, BATCH), actions


def rows_of(first, last):
    return np.broadcast_to(np.arange(first, last, dtype=np.int32)[:, None], (last - first, BATCH))


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_policys_rows_are_its_steps(kind):
    policy, _, params, trajectory, _ = case(kind)
    whole = jax.jit(policy.unroll)(params, trajectory)[0]
    assert whole.shape == (LENGTH + 1, BATCH, 2 * SIZE)
    behind = jax.jit(policy.rows)(params, trajectory, rows_of(1, LENGTH + 1))
    np.testing.assert_allclose(behind, whole[1:], atol=1e-6)
    output, _ = jax.jit(policy.step)(params, timestep_of(trajectory, 0), trajectory.carry)
    np.testing.assert_allclose(output, whole[0], atol=1e-6)


@pytest.mark.parametrize("kind", NETWORKS)
def test_critics_value_each_action_by_itself_and_by_what_is_seen(kind):
    _, critic, params, trajectory, actions = case(kind)
    values = jax.jit(critic.rows)
    whole = np.asarray(values(params, trajectory, rows_of(0, LENGTH + 1), actions))
    assert whole.shape == (LENGTH + 1, BATCH, 5, 2)
    alone = values(params, trajectory, rows_of(1, 2), actions[1:2, :, 3:4])
    np.testing.assert_allclose(alone[0, :, 0], whole[1, :, 3], atol=1e-5)
    assert np.abs(whole[..., 0] - whole[..., 1]).min() > 0
    assert np.std(whole, axis=2).min() > 1e-3  # They depend on the action,
    same = np.broadcast_to(actions[:1, :1], actions.shape)
    elsewhere = np.asarray(values(params, trajectory, rows_of(0, LENGTH + 1), same))
    assert np.std(elsewhere, axis=(0, 1)).min() > 1e-3  # and on the observation.


def test_parts_of_the_parameters_have_names_of_their_own_and_need_no_others():
    policy, critic, params, trajectory, actions = case("vector")
    assert set(params) == {"policy", "critic"}
    assert set(params["critic"]) == {"q_0", "q_1", "q_0_value", "q_1_value"}
    policy.rows({"policy": params["policy"]}, trajectory, rows_of(0, 1))
    critic.rows({"critic": params["critic"]}, trajectory, rows_of(0, 1), actions[:1])


def test_a_deterministic_policy_puts_out_one_action_before_squashing():
    policy = make_networks(NetworkConfig(), make_spec(VECTORS)).policy(deterministic=True)
    params = jax.eval_shape(policy.init, jax.random.key(0))
    assert params["policy"]["policy"]["kernel"].shape == (64, SIZE)
    assert policy.policy is None


@pytest.mark.parametrize("kind", NETWORKS)
def test_state_values_are_of_what_is_seen(kind):
    observation, config = NETWORKS[kind]
    spec = make_spec(observation)
    network, trajectory = make_networks(config, spec).state_value(), case(kind)[3]
    params = jax.jit(network.init)(jax.random.key(2))
    assert set(params) == {"state_value"}
    whole = np.asarray(jax.jit(network.rows)(params, trajectory, rows_of(0, LENGTH + 1)))
    assert (whole.shape, whole.dtype) == ((LENGTH + 1, BATCH), np.float32)
    assert np.std(whole) > 1e-3
    np.testing.assert_allclose(network.rows(params, trajectory, rows_of(2, 3))[0], whole[2], atol=1e-6)


@pytest.mark.parametrize("squash", [True, False])
def test_a_bounded_mean_stays_within_the_range_and_a_squashed_policy_as_it_is(squash):
    networks = make_networks(NetworkConfig(squash_actions=squash), make_spec(VECTORS))
    far = np.full(2 * SIZE, 2.0, np.float32)
    plain, bounded = networks.policy().distribution.mode(far), networks.policy(bounded_mean=True).distribution.mode(far)
    np.testing.assert_allclose(bounded, np.tanh(2.0), rtol=1e-5)
    np.testing.assert_allclose(plain, np.tanh(2.0) if squash else 2.0, rtol=1e-5)


def test_a_policy_of_choices_has_their_logits():
    policy = make_networks(NetworkConfig(), make_spec(VECTORS, DiscreteActions(5))).policy()
    params = jax.eval_shape(policy.init, jax.random.key(0))
    assert params["policy"]["policy"]["kernel"].shape == (64, 5)


def test_networks_with_memory_have_no_rows():
    networks = make_networks(NetworkConfig(core="lstm"), make_spec(VECTORS))
    assert networks.policy().rows is None
    assert networks.twin_q().rows is None
    assert networks.state_value().rows is None


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "network.squash_actions=False .* Use network.squash_actions=True"),
        ({"squash_actions": True, "separate_value": True}, "network.separate_value=True has no meaning"),
        ({"squash_actions": True, "encoder": "nature"}, "network.encoder='nature' needs images"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(config, said):
    with pytest.raises(ConfigError, match=said):
        make_networks(NetworkConfig(**config), make_spec(VECTORS)).policy(squashed=True)
