"""The network of action values as distributions over atoms, with noisy layers, and with a model of its latents.

A latent is what the head sees of a row: the features of the encoder, or of the core behind it. With a transition model,
latents lie between 0 and 1, as those that the model puts out (`podrl.networks.latents`).
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import flax.linen as nn
from flax.typing import Initializer
import jax
from jax import numpy as jnp

from podrl.actions import DiscreteActions
from podrl.config.config import NetworkConfig, check
from podrl.networks.core import LSTM, make_core
from podrl.networks.encoders import RELU_INIT
from podrl.networks.functions import make_network
from podrl.networks.interface import AtomNetwork, AtomOutput
from podrl.networks.latents import VectorTransition, scale_latent
from podrl.networks.model_records import AtomShape
from podrl.networks.noisy import NoisyDense, with_noise
from podrl.networks.observation import check_observation, encode, make_encoder
from podrl.ops.atoms import mean_of_atoms
from podrl.types import EnvSpec, PyTree

LAST_INIT = nn.initializers.lecun_normal()  # Of layers without an activation function behind them.


class AtomValues(nn.Module):
    """An encoder, an optional core and a head in float32; rows [B, T] -> AtomOutput of [B, T, ...].

    Attributes:
        encoder: The encoder.
        head: Latents [..., F] -> logits [..., A, N].
        shape: The size and shape of the values.
        num_actions: A, the number of actions.
        core: The recurrent core, if there is one.
        dynamics: (latents, one-hot actions) -> latents; None without a model.
        projection: Latents -> what is compared of them; None without one.
        prediction: What is compared of imagined latents -> that of observed ones; None without a projection.
    """

    encoder: nn.Module
    head: nn.Module
    shape: AtomShape
    num_actions: int
    core: LSTM | None = None
    dynamics: Any = None
    projection: Any = None
    prediction: Any = None

    def __call__(
        self, stacked: jax.Array, last: jax.Array | None, first: jax.Array, state: PyTree
    ) -> tuple[AtomOutput, PyTree]:
        """Evaluates all actions; see `podrl.networks.action_values.ActionValues` for the arguments."""
        latent = encode(self.encoder, stacked, last)
        if self.core is not None:
            latent, state = self.core(latent, first, state)
        if self.dynamics is not None:
            latent = scale_latent(latent, 1)
            if self.is_initializing():  # All parts get their parameters at once.
                imagined = self.transition(latent, jnp.zeros(latent.shape[:2], jnp.int32))
                if self.projection is not None:
                    self.predict(self.project(imagined))
        return self.values(latent), state

    def values(self, latent: jax.Array) -> AtomOutput:
        """Evaluates all actions of latents [..., F]."""
        logits = self.head(latent)
        return AtomOutput(q_values=mean_of_atoms(logits, self.shape.support), logits=logits, latent=latent)

    def transition(self, latent: jax.Array, action: jax.Array) -> jax.Array:
        """Computes the next latents of latents [..., F] and actions [...]."""
        return self.dynamics(latent, jax.nn.one_hot(action, self.num_actions))

    def project(self, latent: jax.Array) -> jax.Array:
        """Returns what is compared of latents [..., F]."""
        return self.projection(latent)

    def predict(self, projected: jax.Array) -> jax.Array:
        """Predicts what is compared of the latents that were imagined here."""
        return self.prediction(projected)


class AtomHead(nn.Module):
    """Logits of each action's distribution; latents [..., F] -> [..., num_actions, num_atoms].

    A dueling head adds the state's logits and each action's, less their mean over actions. Both have a hidden layer as
    wide as the latents, whose weights are noisy if those of the last layer are.

    Source: Hessel et al. 2018, arXiv:1710.02298, section "The integrated agent"; Wang et al. 2016, arXiv:1511.06581.
    """

    num_actions: int
    shape: AtomShape

    @nn.compact
    def __call__(self, latent: jax.Array) -> jax.Array:
        """Evaluates all actions."""
        num = self.shape.support.num

        def stream(name: str, num_rows: int) -> jax.Array:
            hidden = nn.relu(self._layer(f"{name}_hidden", latent.shape[-1], RELU_INIT)(latent))
            return self._layer(name, num_rows * num)(hidden).reshape(*latent.shape[:-1], num_rows, num)

        if not self.shape.dueling:
            return stream("q", self.num_actions)
        advantages = stream("advantage", self.num_actions)
        return stream("value", 1) + advantages - jnp.mean(advantages, axis=-2, keepdims=True)

    def _layer(self, name: str, size: int, init: Initializer = LAST_INIT) -> Callable[[jax.Array], jax.Array]:
        if self.shape.noisy:
            return NoisyDense(size, self.shape.sigma, name=name)
        return nn.Dense(size, kernel_init=init, name=name)


def make_atom_network(
    config: NetworkConfig, spec: EnvSpec, shape: AtomShape, *, layers_are_split: bool = False
) -> AtomNetwork:
    """Builds the network of distributions of action values that `config` and `shape` describe.

    Args:
        config: The `network` section.
        spec: The spec of the environment, whose agents choose one discrete action.
        shape: The size and shape of the values, and whether there is a model.
        layers_are_split: Whether the channels of the layers are split over devices.

    Raises:
        ConfigError: If the encoder cannot take the environment's observations, or the value were to have an encoder of
            its own.
        ValueError: If actions are not one discrete choice, which agents check.
    """
    if not isinstance(spec.actions, DiscreteActions):
        raise ValueError(f"Found {spec.actions}; a network of action values needs DiscreteActions.")
    check(
        not config.separate_value,
        "network.separate_value=True has no meaning for an agent that learns action values alone. Leave it out.",
    )
    check_observation(config, spec)
    encoder, core = make_encoder(config, spec, layers_are_split=layers_are_split), make_core(config)
    module = _make_module(shape, spec.actions.num, encoder, core)

    def call(name: str, params: PyTree, *args: jax.Array) -> Any:
        return module.apply({"params": params}, *args, method=name)

    record = functools.partial(
        AtomNetwork,
        add_noise=with_noise if shape.noisy else lambda params, keys: params,
        **{name: functools.partial(call, name) for name in ("values", "transition", "project", "predict")},
    )
    return make_network(module, record, _mask_output, config, spec)


def _make_module(shape: AtomShape, num_actions: int, encoder: nn.Module, core: LSTM | None) -> AtomValues:
    parts: dict[str, Any] = {}
    if shape.has_model:
        parts["dynamics"] = VectorTransition()
    if shape.projection:
        parts |= {name: nn.Dense(shape.projection) for name in ("projection", "prediction")}
    return AtomValues(
        encoder=encoder, head=AtomHead(num_actions, shape), shape=shape, num_actions=num_actions, core=core, **parts
    )


def _mask_output(output: AtomOutput, mask: jax.Array) -> AtomOutput:
    return dataclasses.replace(output, q_values=jnp.where(mask, output.q_values, -jnp.inf))
