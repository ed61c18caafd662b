"""The actor-critic network: an encoder, a core, a policy head and a value head."""

import dataclasses
import functools

import flax.linen as nn
import jax

from podrl.config.config import NetworkConfig
from podrl.networks.core import LSTM, make_core
from podrl.networks.functions import make_network
from podrl.networks.interface import Network, NetworkOutput
from podrl.networks.observation import check_observation, encode, make_encoder
from podrl.networks.policies import make_distribution, num_free, policy_head
from podrl.ops.distributions import Distribution, mask_options
from podrl.types import EnvSpec, PyTree


class ActorCritic(nn.Module):
    """An encoder, an optional core and two linear heads in float32; rows [B, T] -> NetworkOutput of [B, T, ...].

    Attributes:
        encoder: The encoder of the policy, and of the value if `value_encoder` is None.
        policy: The distribution over actions.
        num_free: How many of the policy's parameters, the last ones, do not depend on the observation.
        value_encoder: The value's own encoder, if it has one; there is no core then.
        core: The recurrent core, if there is one.
    """

    encoder: nn.Module
    policy: Distribution
    num_free: int = 0
    value_encoder: nn.Module | None = None
    core: LSTM | None = None

    @nn.compact
    def __call__(
        self, stacked: jax.Array, last: jax.Array | None, first: jax.Array, state: PyTree
    ) -> tuple[NetworkOutput, PyTree]:
        """Evaluates policy and value.

        Args:
            stacked: [B, T, ...] observations, or their parts.
            last: [B, T, F] inputs that are joined to the encoder's features, if there are any.
            first: [B, T] bool; the row opens an episode.
            state: The core's state before row 0.
        """
        features = value_features = encode(self.encoder, stacked, last)
        if self.value_encoder is not None:
            value_features = encode(self.value_encoder, stacked, last)
        if self.core is not None:
            features, state = self.core(features, first, state)
            value_features = features
        policy = policy_head(self, features, self.policy.num_params, self.num_free)
        value = nn.Dense(1, kernel_init=nn.initializers.orthogonal(1.0), name="value")(value_features)
        return NetworkOutput(policy=policy, value=value[..., 0]), state


def make_actor_critic(config: NetworkConfig, spec: EnvSpec, *, layers_are_split: bool = False) -> Network:
    """Builds the network that `config` describes for the observations and actions of `spec`.

    Args:
        config: The `network` section.
        spec: The spec of the environment. Its observation is an image [H, W, C] or a vector [D], or several parts.
        layers_are_split: Whether the channels of the layers are split over devices.

    Raises:
        ConfigError: If the encoder cannot take the environment's observations.
    """
    check_observation(config, spec)
    encoder = functools.partial(make_encoder, config, spec, layers_are_split=layers_are_split)
    policy = make_distribution(config, spec.actions)
    module = ActorCritic(
        encoder=encoder(),
        policy=policy,
        num_free=num_free(config, spec.actions),
        value_encoder=encoder() if config.separate_value else None,
        core=make_core(config),
    )

    def mask_output(output: NetworkOutput, mask: jax.Array) -> NetworkOutput:
        return dataclasses.replace(output, policy=mask_options(policy, output.policy, mask))

    record = functools.partial(Network, policy=policy, scale_value=_scale_value)
    return make_network(module, record, mask_output, config, spec)


def _scale_value(params: PyTree, factor: jax.Array, shift: jax.Array) -> PyTree:
    """Returns parameters with which the linear value head puts out factor * value + shift."""
    head = params["value"]
    return {**params, "value": {"kernel": head["kernel"] * factor, "bias": head["bias"] * factor + shift}}
