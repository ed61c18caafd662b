"""Networks of agents for continuous control: a policy alone, two networks of action values Q(s, a), and one of V(s).

Each has its own parameters, under a name of its own, `policy`, `critic` and `state_value`: an agent keeps them in one
tree, whose parts have optimizers and targets of their own.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from podrl.actions import ContinuousActions
from podrl.config.config import NetworkConfig, check
from podrl.networks.core import LSTM, make_core
from podrl.networks.encoders import MLP, flatten_rows
from podrl.networks.functions import chosen_inputs, make_network, opening_inputs
from podrl.networks.interface import PolicyNetwork, StateValueNetwork, TwinQNetwork
from podrl.networks.observation import check_observation, encode, is_vector, make_encoder
from podrl.networks.policies import make_distribution, num_free, policy_head
from podrl.networks.rows import swap
from podrl.ops.distributions import mask_options
from podrl.ops.gaussian import bound_mean
from podrl.types import EnvSpec, PyTree, Trajectory


class PolicyModule(nn.Module):
    """An encoder, an optional core and a linear head in float32; rows [B, T] -> parameters [B, T, num_params].

    Attributes:
        encoder: The encoder.
        num_params: How many parameters the policy has.
        free: How many of these, the last ones, do not depend on the observation.
        core: The recurrent core, if there is one.
    """

    encoder: nn.Module
    num_params: int
    free: int = 0
    core: LSTM | None = None

    @nn.compact
    def __call__(
        self, stacked: jax.Array, last: jax.Array | None, first: jax.Array, state: PyTree
    ) -> tuple[jax.Array, PyTree]:
        """Evaluates the policy; see `podrl.networks.actor_critic.ActorCritic`."""
        features = encode(self.encoder, stacked, last)
        if self.core is not None:
            features, state = self.core(features, first, state)
        return policy_head(self, features, self.num_params, self.free), state


class TwinQ(nn.Module):
    """Two MLPs `q_0` and `q_1` with a linear head each; rows [B, R] and actions [B, R, S, D] -> [B, R, S, 2].

    The action is joined with the observation, or with the features of one that needs an encoder other than an MLP.

    Attributes:
        encoder: The encoder of both; None where the observation is one vector, or flattened to one.
        hidden_sizes: Widths of the MLPs' layers.
        activation: Their activation function.
        dtype: The dtype of activations.
    """

    encoder: nn.Module | None
    hidden_sizes: tuple[int, ...]
    activation: str = "relu"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, stacked: PyTree, last: jax.Array | None, action: jax.Array) -> jax.Array:
        """Evaluates S actions in every row."""
        encoder: Callable[[PyTree], jax.Array] = self.encoder or flatten_rows
        features = encode(encoder, stacked, last)[:, :, None]
        features = jnp.broadcast_to(features, (*action.shape[:-1], features.shape[-1]))
        joined = jnp.concatenate([features, action], axis=-1)
        values = []
        for name in ("q_0", "q_1"):
            layers = MLP(self.hidden_sizes, self.dtype, self.activation, name=name)
            hidden = layers(joined.reshape(-1, joined.shape[-1])).astype(jnp.float32)
            head = nn.Dense(1, kernel_init=nn.initializers.orthogonal(1.0), name=f"{name}_value")
            values.append(head(hidden).reshape(action.shape[:-1]))
        return jnp.stack(values, axis=-1)


class StateValue(nn.Module):
    """An encoder and a linear head in float32; rows [B, R] -> [B, R].

    Attributes:
        encoder: The encoder.
    """

    encoder: nn.Module

    @nn.compact
    def __call__(self, stacked: PyTree, last: jax.Array | None) -> jax.Array:
        """Evaluates every row."""
        head = nn.Dense(1, kernel_init=nn.initializers.orthogonal(1.0), name="value")
        return head(encode(self.encoder, stacked, last).astype(jnp.float32))[..., 0]


def make_policy_network(
    config: NetworkConfig,
    spec: EnvSpec,
    *,
    squashed: bool = False,
    deterministic: bool = False,
    bounded_mean: bool = False,
    layers_are_split: bool = False,
    encoder: nn.Module | None = None,
) -> PolicyNetwork:
    """Builds the network of a policy alone that `config` describes for the observations and actions of `spec`.

    Args:
        config: The `network` section.
        spec: The spec of the environment.
        squashed: Whether the agent needs a policy whose actions never leave the environment's range.
        deterministic: Whether the network puts out one action before squashing, in place of a distribution.
        bounded_mean: Whether the mean of a Gaussian that is not squashed is kept within the range by a hyperbolic
            tangent.
        layers_are_split: Whether the channels of the layers are split over devices.
        encoder: One in place of the config's.

    Raises:
        ConfigError: If the encoder cannot take the environment's observations, if the value were to have an encoder
            of its own, or if the config's distribution is not as the agent needs it.
    """
    _check(config, spec)
    check(
        not squashed or config.squash_actions,
        "network.squash_actions=False is a policy whose actions leave the environment's range, and this agent needs "
        "one whose actions do not. Use network.squash_actions=True.",
    )
    policy = None if deterministic else make_distribution(config, spec.actions)
    if policy and bounded_mean and not config.squash_actions:
        policy = bound_mean(policy)
    module = PolicyModule(
        encoder=encoder or make_encoder(config, spec, layers_are_split=layers_are_split),
        num_params=policy.num_params if policy else _continuous(spec).size,
        free=num_free(config, spec.actions) if policy else 0,
        core=make_core(config),
    )

    def mask_output(params: jax.Array, mask: jax.Array) -> jax.Array:
        return mask_options(policy, params, mask) if policy else params

    network = make_network(module, functools.partial(PolicyNetwork, policy=policy), mask_output, config, spec)
    return _under("policy", network, ("step", "unroll", "rows"))


def make_twin_q_network(
    config: NetworkConfig, spec: EnvSpec, *, layers_are_split: bool = False, encoder: nn.Module | None = None
) -> TwinQNetwork:
    """Builds the two networks of action values that `config` describes for the observations and actions of `spec`.

    Args:
        config: The `network` section.
        spec: The spec of the environment, whose actions are numbers.
        layers_are_split: Whether the channels of the layers are split over devices.
        encoder: One in place of the config's.

    Raises:
        ConfigError: If the encoder cannot take the environment's observations.
        ValueError: If actions are no numbers, which agents check.
    """
    _check(config, spec)
    actions = _continuous(spec)
    if encoder is None and not is_vector(config, spec):
        encoder = make_encoder(config, spec, layers_are_split=layers_are_split)
    module = TwinQ(
        encoder=encoder,
        hidden_sizes=tuple(config.hidden_sizes),
        activation=config.activation,
        dtype=jnp.dtype(config.compute_dtype),
    )

    def init(key: jax.Array) -> PyTree:
        stacked, last, *_ = opening_inputs(config, spec)
        return module.init(key, stacked, last, jnp.zeros((1, 1, 1, actions.size)))["params"]

    def rows(params: PyTree, trajectory: Trajectory, chosen: jax.Array, action: jax.Array) -> jax.Array:
        stacked, last, _, _ = chosen_inputs(config, actions, trajectory, chosen)
        return swap(module.apply({"params": params}, stacked, last, jnp.swapaxes(action, 0, 1)))

    return _under("critic", TwinQNetwork(init=init, rows=rows if config.core == "none" else None), ("rows",))


def make_state_value_network(
    config: NetworkConfig, spec: EnvSpec, *, layers_are_split: bool = False
) -> StateValueNetwork:
    """Builds the network of values of states that `config` describes for the observations of `spec`.

    Args:
        config: The `network` section.
        spec: The spec of the environment.
        layers_are_split: Whether the channels of the layers are split over devices.

    Raises:
        ConfigError: If the encoder cannot take the environment's observations.
    """
    _check(config, spec)
    module = StateValue(encoder=make_encoder(config, spec, layers_are_split=layers_are_split))

    def init(key: jax.Array) -> PyTree:
        stacked, last, *_ = opening_inputs(config, spec)
        return module.init(key, stacked, last)["params"]

    def rows(params: PyTree, trajectory: Trajectory, chosen: jax.Array) -> jax.Array:
        stacked, last, _, _ = chosen_inputs(config, spec.actions, trajectory, chosen)
        return swap(module.apply({"params": params}, stacked, last))

    network = StateValueNetwork(init=init, rows=rows if config.core == "none" else None)
    return _under("state_value", network, ("rows",))


def _under(name: str, network: Any, evaluating: tuple[str, ...]) -> Any:
    """Returns the network with its parameters under a name; `evaluating` are its functions that take them."""

    def inside(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda params, *args: function(params[name], *args)

    functions = {field: getattr(network, field) for field in evaluating}
    return dataclasses.replace(
        network,
        init=lambda key: {name: network.init(key)},
        **{field: inside(function) for field, function in functions.items() if function is not None},
    )


def _check(config: NetworkConfig, spec: EnvSpec) -> None:
    check(
        not config.separate_value,
        "network.separate_value=True has no meaning for an agent whose policy and values have encoders of their own "
        "anyway. Leave it out.",
    )
    check_observation(config, spec)


def _continuous(spec: EnvSpec) -> ContinuousActions:
    if not isinstance(spec.actions, ContinuousActions):
        raise ValueError(f"Found {spec.actions}; values of single actions need ContinuousActions.")
    return spec.actions
