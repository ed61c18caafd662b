"""A learned model of an environment, as MuZero has it: from observations to latent states, and from these to the next.

A latent state need not say what would be observed; it is made to predict policy, value and reward. A latent vector is
made of the features of the encoder that the config describes. A latent image is made of an observation that is one
image, by residual blocks that keep its places.

Source: Schrittwieser et al. 2020, arXiv:1911.08265, section 3.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
from jax import numpy as jnp

from podrl.actions import DiscreteActions
from podrl.config.config import NetworkConfig, check
from podrl.networks.core import make_core
from podrl.networks.functions import make_network
from podrl.networks.interface import ModelNetwork
from podrl.networks.latents import (
    ImagePrediction,
    ImageRepresentation,
    ImageTransition,
    VectorPrediction,
    VectorRepresentation,
    VectorTransition,
)
from podrl.networks.model_records import LatentState, ModelOutput, ModelShape
from podrl.networks.observation import check_observation, make_encoder
from podrl.networks.parts import is_image, seen
from podrl.networks.policies import make_distribution
from podrl.ops.distributions import mask_options
from podrl.types import EnvSpec, PyTree


class WorldModel(nn.Module):
    """A representation, a transition and a prediction; called, it is the representation of rows [B, T].

    Attributes:
        representation: (stacked observations, last inputs, first, the core's state) -> (latents, the core's state).
        dynamics: (latents, one-hot actions) -> latents.
        prediction: (latents) -> `ModelOutput`.
        num_actions: A, the number of actions.
    """

    representation: nn.Module
    dynamics: nn.Module
    prediction: nn.Module
    num_actions: int

    def __call__(
        self, stacked: jax.Array, last: jax.Array | None, first: jax.Array, state: PyTree
    ) -> tuple[LatentState, PyTree]:
        """Computes latent states; see `podrl.networks.actor_critic.ActorCritic` for the arguments."""
        latent, state = self.representation(stacked, last, first, state)
        if self.is_initializing():  # All parts get their parameters at once.
            self.predict(self.transition(latent, jnp.zeros(latent.shape[:2], jnp.int32)))
        return LatentState(latent=latent), state

    def transition(self, latent: jax.Array, action: jax.Array) -> jax.Array:
        """Computes the next latents of latents [..., *] and actions [...]."""
        return self.dynamics(latent, jax.nn.one_hot(action, self.num_actions))

    def predict(self, latent: jax.Array) -> ModelOutput:
        """Predicts policy, value and reward of latents [..., *]."""
        return self.prediction(latent)


def make_model_network(
    config: NetworkConfig, spec: EnvSpec, shape: ModelShape, *, layers_are_split: bool = False
) -> ModelNetwork:
    """Builds the learned model that `config` and `shape` describe for the observations and actions of `spec`.

    Args:
        config: The `network` section.
        spec: The spec of the environment, whose agents choose one discrete action.
        shape: The model's own size and shape.
        layers_are_split: Whether the channels of the layers are split over devices.

    Raises:
        ConfigError: If the encoder cannot take the environment's observations, or the value were to have an encoder of
            its own, or latent images are asked for where they cannot be.
        ValueError: If actions are not one discrete choice, which agents check.
    """
    if not isinstance(spec.actions, DiscreteActions):
        raise ValueError(f"Found {spec.actions}; a learned model needs DiscreteActions.")
    check(
        not config.separate_value,
        "network.separate_value=True has no meaning for a learned model, whose value is predicted of the same latent "
        "state as all else. Leave it out.",
    )
    check_observation(config, spec)
    if shape.latent == "image":
        _check_latent_images(config, spec)
    module = _make_module(config, spec, shape, layers_are_split=layers_are_split)
    policy = make_distribution(config, spec.actions)

    def transition(params: PyTree, latent: jax.Array, action: jax.Array) -> jax.Array:
        following: Any = module.apply({"params": params}, latent, action, method="transition")
        return following

    def predict(params: PyTree, latent: jax.Array, mask: jax.Array | None = None) -> ModelOutput:
        output: Any = module.apply({"params": params}, latent, method="predict")
        return output if mask is None else dataclasses.replace(output, policy=mask_options(policy, output.policy, mask))

    def show_mask(output: LatentState, mask: jax.Array) -> LatentState:
        return dataclasses.replace(output, mask=mask)

    record = functools.partial(ModelNetwork, policy=policy, transition=transition, predict=predict)
    return make_network(module, record, show_mask, config, spec)


def _make_module(config: NetworkConfig, spec: EnvSpec, shape: ModelShape, *, layers_are_split: bool) -> WorldModel:
    num_actions, dtype = make_distribution(config, spec.actions).num_params, jnp.dtype(config.compute_dtype)
    if shape.latent == "image":
        represent, follow, predict = shape.blocks
        return WorldModel(
            representation=ImageRepresentation(shape.channels, represent, dtype, layers_are_split),
            dynamics=ImageTransition(follow, dtype, layers_are_split),
            prediction=ImagePrediction(num_actions, shape.num_bins, predict, dtype, layers_are_split),
            num_actions=num_actions,
        )
    encoder = make_encoder(config, spec, layers_are_split=layers_are_split)
    return WorldModel(
        representation=VectorRepresentation(encoder, shape.size, make_core(config)),
        dynamics=VectorTransition(dtype),
        prediction=VectorPrediction(num_actions, shape.num_bins, dtype),
        num_actions=num_actions,
    )


def _check_latent_images(config: NetworkConfig, spec: EnvSpec) -> None:
    """Raises ConfigError unless residual blocks can make a latent image of all that the network is to see."""
    observation = seen(spec.observation)
    vectors = "Use agent.latent=vector."
    check(
        isinstance(observation, jax.ShapeDtypeStruct) and is_image(observation),
        f"agent.latent='image' needs observations of one image; env.id={spec.id!r} gives "
        f"{spec.observed or getattr(observation, 'shape', 'several parts')}. {vectors}",
    )
    check(
        config.encoder == "resnet",
        f"agent.latent='image' has residual blocks for its encoder, not network.encoder={config.encoder!r}. Use "
        f"network.encoder=resnet, or agent.latent=vector.",
    )
    for key, off in (("core", "none"), ("last_action", False), ("last_reward", False)):
        found = getattr(config, key)
        check(found == off, f"agent.latent='image' has no place for network.{key}={found!r}. {vectors}")
