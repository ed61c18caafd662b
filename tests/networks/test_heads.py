"""What a network puts out for each kind of actions, and what its two heads share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from podrl.actions import ContinuousActions, DiscreteActions, MultiDiscreteActions
from podrl.config.config import ConfigError, NetworkConfig
from podrl.networks.actor_critic import make_actor_critic
from podrl.types import EnvSpec, Timestep


def make(actions, **config):
    spec = EnvSpec(id="Test-v0", observation=jax.ShapeDtypeStruct((4,), jnp.float32), actions=actions)
    network = make_actor_critic(NetworkConfig(hidden_sizes=(8, 8), **config), spec)
    params = network.init(jax.random.key(0))
    return network, jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape), params)


def outputs(network, params):
    """Of two different observations."""
    timestep = Timestep(
        observation=jax.random.normal(jax.random.key(2), (2, 4)),
        reward=jnp.zeros(2),
        discount=jnp.ones(2),
        first=jnp.zeros(2, bool),
    )
    return network.step(params, timestep, network.initial_carry(2))[0]


@pytest.mark.parametrize(("scale", "depends"), [("shared", False), ("observed", True)])
def test_the_scale_depends_on_the_observation_or_not(scale, depends):
    policy = outputs(*make(ContinuousActions(3), action_scale=scale)).policy
    assert policy.shape == (2, 6)
    assert (policy[0, :3] != policy[1, :3]).all()
    assert (policy[0, 3:] != policy[1, 3:]).all() == depends
    assert (policy[0, 3:] != policy[1, 3:]).any() == depends
    assert (policy[:, 3:] != 0).all()


@pytest.mark.parametrize("settings", [{}, {"separate_value": True}, {"core": "lstm", "core_size": 8}])
def test_values_are_scaled_and_shifted_and_nothing_else_changes(settings):
    network, params = make(DiscreteActions(3), **settings)
    before, after = outputs(network, params), outputs(network, network.scale_value(params, -2.5, 40.0))
    np.testing.assert_allclose(after.value, -2.5 * before.value + 40, rtol=1e-5)
    np.testing.assert_array_equal(after.policy, before.policy)


def test_a_shared_scale_is_learned_and_starts_from_the_initial_one():
    network, params = make(ContinuousActions(3), initial_scale=0.5)
    fresh = outputs(network, network.init(jax.random.key(0))).policy
    np.testing.assert_allclose(network.policy.entropy(fresh), 3 * 0.5 * np.log(2 * np.pi * np.e * 0.25), rtol=1e-4)
    grad = jax.grad(lambda p: network.policy.entropy(outputs(network, p).policy).sum())(params)
    assert [path for path, leaf in grad.items() if any((x != 0).any() for x in jax.tree.leaves(leaf))] == [
        "policy_free"
    ]


def test_squashing_is_the_policys():
    keys = jax.random.split(jax.random.key(0), 2)
    for squash in (False, True):
        network, _ = make(ContinuousActions(3), squash_actions=squash, initial_scale=10.0)
        action = network.policy.sample(keys, jnp.zeros((2, 6)))
        assert (np.abs(action) <= 1).all() == squash


def test_several_choices_have_the_logits_of_all():
    assert outputs(*make(MultiDiscreteActions((2, 5)))).policy.shape == (2, 7)


@pytest.mark.parametrize("separate", [False, True])
def test_a_value_of_its_own_leaves_the_policys_encoder_alone(separate):
    network, params = make(DiscreteActions(3), separate_value=separate, activation="tanh")
    grad = jax.grad(lambda p: outputs(network, p).value.sum())(params)
    reaches = {name: any((x != 0).any() for x in jax.tree.leaves(leaf)) for name, leaf in grad.items()}
    assert reaches == {"encoder": not separate, "policy": False, "value": True} | (
        {"value_encoder": True} if separate else {}
    )


def test_tanh_bounds_the_features():
    def largest(activation):
        network, params = make(DiscreteActions(3), activation=activation)
        params["encoder"] = jax.tree.map(lambda x: 100 * x, params["encoder"])
        params["value"] = {"kernel": jnp.ones((8, 1)) / 8, "bias": jnp.zeros(1)}
        return np.abs(outputs(network, params).value).max()

    assert largest("tanh") <= 1
    assert largest("relu") > 10


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"activation": "gelu"}, "network.activation='gelu' is not known"),
        ({"action_scale": "free"}, "network.action_scale='free' is not known.* Available: observed, shared"),
        ({"initial_scale": 0.0}, r"network.initial_scale=0.0 must lie in \[0.01, 10\]"),
    ],
)
def test_values_out_of_range_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        NetworkConfig(**config)
