"""The network of action values Q(s, a): an encoder, a core and one value for each action."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from podrl.actions import DiscreteActions
from podrl.config.config import NetworkConfig, check
from podrl.networks.core import LSTM, make_core
from podrl.networks.encoders import RELU_INIT, normalize_layer
from podrl.networks.functions import make_network
from podrl.networks.interface import NetworkFunctions, QNetwork, QOutput
from podrl.networks.observation import check_observation, encode, make_encoder
from podrl.types import EnvSpec, PyTree


class ActionValues(nn.Module):
    """An encoder, an optional core and a head in float32; rows [B, T] -> QOutput of [B, T, ...].

    Attributes:
        encoder: The encoder.
        num_actions: A, the number of actions.
        dueling: Whether the head is a `DuelingHead` instead of a linear layer.
        normalizes: Whether the head's own layers are normalised.
        core: The recurrent core, if there is one.
    """

    encoder: nn.Module
    num_actions: int
    dueling: bool = False
    normalizes: bool = False
    core: LSTM | None = None

    @nn.compact
    def __call__(
        self, stacked: jax.Array, last: jax.Array | None, first: jax.Array, state: PyTree
    ) -> tuple[QOutput, PyTree]:
        """Evaluates all actions.

        Args:
            stacked: [B, T, ...] observations, or their parts.
            last: [B, T, F] inputs that are joined to the encoder's features, if there are any.
            first: [B, T] bool; the row opens an episode.
            state: The core's state before row 0.
        """
        features = encode(self.encoder, stacked, last)
        if self.core is not None:
            features, state = self.core(features, first, state)
        if self.dueling:
            head: nn.Module = DuelingHead(self.num_actions, self.normalizes, name="dueling")
        else:
            head = nn.Dense(self.num_actions, name="q")
        return QOutput(q_values=head(features)), state


class DuelingHead(nn.Module):
    """The state's value plus each action's advantage over their mean; features [..., F] -> [..., num_actions].

    Value and advantages have a hidden layer each, as wide as the features.

    Source: Wang et al. 2016, arXiv:1511.06581, equation 9.
    """

    num_actions: int
    normalizes: bool = False

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """Evaluates all actions."""

        def stream(name: str, size: int) -> jax.Array:
            hidden = nn.Dense(features.shape[-1], kernel_init=RELU_INIT, name=f"{name}_hidden")(features)
            return nn.Dense(size, name=name)(nn.relu(normalize_layer(hidden, self.normalizes)))

        value, advantages = stream("value", 1), stream("advantage", self.num_actions)
        return value + advantages - jnp.mean(advantages, axis=-1, keepdims=True)


def make_q_network(
    config: NetworkConfig,
    spec: EnvSpec,
    *,
    dueling: bool = False,
    normalization: str = "none",
    layers_are_split: bool = False,
) -> QNetwork:
    """Builds the network of action values that `config` describes for the observations and actions of `spec`.

    Args:
        config: The `network` section.
        spec: The spec of the environment, whose agents choose one discrete action.
        dueling: Whether values are the sum of a state's value and advantages, see `DuelingHead`.
        normalization: `layer`: each layer of the encoder and the head is normalised before its activation function,
            see `podrl.networks.encoders.normalize_layer`. `none`: no layer is.
        layers_are_split: Whether the channels of the layers are split over devices.

    Raises:
        ConfigError: If the encoder cannot take the environment's observations, or the value were to have an encoder of
            its own.
        ValueError: If actions are not one discrete choice, which agents check, or the normalization is not known.
    """
    if not isinstance(spec.actions, DiscreteActions):
        raise ValueError(f"Found {spec.actions}; a network of action values needs DiscreteActions.")
    if normalization not in ("layer", "none"):
        raise ValueError(f"Found normalization={normalization!r}; expected 'layer' or 'none'.")
    check(
        not config.separate_value,
        "network.separate_value=True has no meaning for an agent that learns action values alone. Leave it out.",
    )
    check_observation(config, spec)
    normalizes = normalization == "layer"
    module = ActionValues(
        encoder=make_encoder(config, spec, layers_are_split=layers_are_split, normalizes=normalizes),
        num_actions=spec.actions.num,
        dueling=dueling,
        normalizes=normalizes,
        core=make_core(config),
    )
    return make_network(module, NetworkFunctions[QOutput], _mask_output, config, spec)


def _mask_output(output: QOutput, mask: jax.Array) -> QOutput:
    return dataclasses.replace(output, q_values=jnp.where(mask, output.q_values, -jnp.inf))
