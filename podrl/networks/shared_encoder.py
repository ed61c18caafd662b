"""A policy and two networks of action values behind one encoder, which the values alone train.

The encoder is a part of the critics. Behind it policy and critics have a trunk each: a dense layer to a few features, a
layer normalisation and a hyperbolic tangent. No gradient flows from the policy into the encoder.

Source: Yarats et al. 2021, arXiv:2107.09645, section 3.1 and its code.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from podrl.config.config import NetworkConfig, check
from podrl.networks.continuous import make_policy_network, make_twin_q_network
from podrl.networks.encoders import MLP, flatten_rows, normalize_layer
from podrl.networks.interface import PolicyNetwork, TwinQNetwork
from podrl.networks.observation import is_vector, make_encoder
from podrl.networks.parts import seen, stack_chosen
from podrl.networks.rows import swap
from podrl.types import EnvSpec, PyTree, Trajectory


class Trunk(nn.Module):
    """An encoder, a few features, and an MLP behind them; observations [N, ...] -> [N, F].

    Attributes:
        encoder: The encoder; None where the observation is one vector, or flattened to one.
        features: How many features.
        trains_encoder: Whether a gradient flows into the encoder.
        hidden_sizes: Widths of the MLP's layers; without any the features are the result.
        activation: Its activation function.
        dtype: The dtype of activations.
    """

    encoder: nn.Module | None
    features: int
    trains_encoder: bool
    hidden_sizes: tuple[int, ...] = ()
    activation: str = "relu"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: PyTree) -> jax.Array:
        """Encodes observations."""
        encoder: Callable[[PyTree], jax.Array] = self.encoder or flatten_rows
        encoded = encoder(x) if self.trains_encoder else jax.lax.stop_gradient(encoder(x))
        init = nn.initializers.orthogonal(1.0)
        narrow = nn.Dense(self.features, dtype=self.dtype, kernel_init=init, name="trunk")(encoded)
        features = nn.tanh(normalize_layer(narrow))
        if not self.hidden_sizes:
            return features
        return MLP(self.hidden_sizes, self.dtype, self.activation, name="layers")(features)


def make_shared_networks(
    config: NetworkConfig, spec: EnvSpec, *, features: int, layers_are_split: bool = False
) -> tuple[PolicyNetwork, TwinQNetwork]:
    """Builds a deterministic policy and two networks of action values behind one encoder.

    The policy's functions need the critics' parameters beside its own, for the encoder.

    Args:
        config: The `network` section. Its `hidden_sizes` are those of the MLPs behind the trunks.
        spec: The spec of the environment, whose actions are numbers.
        features: Features of each trunk.
        layers_are_split: Whether the channels of the layers are split over devices.

    Raises:
        ConfigError: If the encoder cannot take the environment's observations, or the network is to see its last action
            or reward.
        ValueError: If actions are no numbers, which agents check.
    """
    for key in ("last_action", "last_reward"):
        check(
            not getattr(config, key),
            f"network.{key}=True has no place in networks that share an encoder; expected False. Leave it out.",
        )

    def make_trunk(**own: Any) -> Trunk:
        encoder = None if is_vector(config, spec) else make_encoder(config, spec, layers_are_split=layers_are_split)
        return Trunk(encoder=encoder, features=features, dtype=jnp.dtype(config.compute_dtype), **own)

    behind = {"hidden_sizes": tuple(config.hidden_sizes), "activation": config.activation}
    policy_encoder = make_trunk(trains_encoder=False, **behind)
    policy = make_policy_network(config, spec, deterministic=True, encoder=policy_encoder)
    return _borrow_encoder(policy), make_twin_q_network(config, spec, encoder=make_trunk(trains_encoder=True))


def stack_rows(trajectory: Trajectory, rows: jax.Array) -> tuple[PyTree, PyTree]:
    """Stacks the frames of chosen rows, for networks that are to see these as observations that need no stack.

    Args:
        trajectory: [T, B], with the network's carry.
        rows: [R, B] int32, from 0 to T.

    Returns:
        What the encoder sees of these rows, [R, B, ...], and the carry without frames.
    """
    observation, first = swap((seen(trajectory.observation), trajectory.first))
    frames = trajectory.carry.frames
    stacked = stack_chosen(observation, first, frames, jnp.swapaxes(rows, 0, 1))
    none = dict.fromkeys(frames, ()) if isinstance(frames, dict) else ()
    return swap(stacked), dataclasses.replace(trajectory.carry, frames=none)


def split_encoder(critic: PyTree) -> tuple[PyTree, PyTree]:
    """Returns the critics' parameters without the shared encoder, and those of the encoder; empty if there is none."""
    trunk = dict(critic["encoder"])
    encoder = {name: trunk.pop(name) for name in ("encoder",) if name in trunk}
    return {**critic, "encoder": trunk}, encoder


def join_encoder(without: PyTree, encoder: PyTree) -> PyTree:
    """Returns the critics' parameters, or a policy's, with those of the shared encoder: the inverse of the split."""
    return {**without, "encoder": {**without["encoder"], **encoder}}


def _borrow_encoder(policy: PolicyNetwork) -> PolicyNetwork:
    """Returns the policy's network with the critics' encoder in place of one of its own."""

    def init(key: jax.Array) -> PyTree:
        return {"policy": split_encoder(policy.init(key)["policy"])[0]}

    def lend(function: Callable[..., Any]) -> Callable[..., Any]:
        def evaluate(params: PyTree, *args: Any) -> Any:
            return function({"policy": join_encoder(params["policy"], split_encoder(params["critic"])[1])}, *args)

        return evaluate

    names = [name for name in ("step", "unroll", "rows") if getattr(policy, name)]
    functions: dict[str, Any] = {name: lend(getattr(policy, name)) for name in names}
    return dataclasses.replace(policy, init=init, **functions)
