"""A network of the reward of a state and an action, by way of a stochastic latent or directly.

The encoder gives a Gaussian p(z | s, a), the decoder the reward of a latent z. Without a latent the decoder follows the
encoder's last layer.

Source: Xue et al. 2023, arXiv:2301.11774, section 4 (the latent); Lee et al. 2021, PEBBLE, arXiv:2106.05091 (without).
"""

from collections.abc import Callable, Sequence
import dataclasses

from flax import struct
import flax.linen as nn
import jax
from jax import numpy as jnp

from podrl.actions import ActionSpace
from podrl.config.config import check
from podrl.networks.last_inputs import encode_action
from podrl.types import EnvSpec, PyTree


@struct.dataclass(kw_only=True)
class RewardOutput:
    """What a reward model says of rows of features.

    Attributes:
        reward: [...].
        mean: [..., Z]; of the latent. Z is 0 without one.
        log_deviation: [..., Z]; the logarithm of its standard deviation.
    """

    reward: jax.Array
    mean: jax.Array
    log_deviation: jax.Array


class LatentReward(nn.Module):
    """Features [..., F] and standard normal noise [..., Z] -> `RewardOutput`; without noise z is its mean."""

    hidden_sizes: tuple[int, ...]
    decoder_sizes: tuple[int, ...]
    latent_size: int
    tanh_output: bool

    @nn.compact
    def __call__(self, features: jax.Array, noise: jax.Array | None) -> RewardOutput:
        """Evaluates the model."""
        hidden = features
        for index, size in enumerate(self.hidden_sizes):
            hidden = nn.leaky_relu(nn.Dense(size, name=f"encoder_{index}")(hidden))
        if self.latent_size:
            mean = nn.Dense(self.latent_size, name="mean")(hidden)
            log_deviation = nn.Dense(self.latent_size, name="log_deviation")(hidden)
            hidden = mean if noise is None else mean + jnp.exp(log_deviation) * noise
        else:
            mean = log_deviation = jnp.zeros((*features.shape[:-1], 0))
        for index, size in enumerate(self.decoder_sizes):
            hidden = nn.leaky_relu(nn.Dense(size, name=f"decoder_{index}")(hidden))
        reward = nn.Dense(1, name="reward")(hidden)[..., 0]
        reward = jnp.tanh(reward) if self.tanh_output else reward
        return RewardOutput(reward=reward, mean=mean, log_deviation=log_deviation)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardNetwork:
    """A reward model as pure functions.

    Attributes:
        init: (key) -> params.
        evaluate: (params, features [..., F], noise [..., Z] or None) -> `RewardOutput`.
        num_features: F.
        latent_size: Z.
        features: (observation pytree of [..., *], action [..., *]) -> [..., F].
    """

    init: Callable[[jax.Array], PyTree]
    evaluate: Callable[[PyTree, jax.Array, jax.Array | None], RewardOutput]
    num_features: int
    latent_size: int
    features: Callable[[PyTree, jax.Array], jax.Array]


def make_reward_network(
    spec: EnvSpec,
    *,
    hidden_sizes: Sequence[int],
    decoder_sizes: Sequence[int],
    latent_size: int,
    tanh_output: bool,
) -> RewardNetwork:
    """Makes a reward model for an environment whose observations are floats.

    Args:
        spec: The environment.
        hidden_sizes: Widths of the encoder's layers.
        decoder_sizes: Widths of the decoder's layers.
        latent_size: Z; 0 for no latent.
        tanh_output: Whether rewards lie in [-1, 1].

    Raises:
        ConfigError: If observations are no floats.
    """
    found = sorted({str(x.dtype) for x in jax.tree.leaves(spec.observation)})
    check(
        all(jnp.issubdtype(x.dtype, jnp.floating) for x in jax.tree.leaves(spec.observation)),
        f"Learned rewards are of observations of floats; env.id={spec.id!r} gives {', '.join(found)}. Use "
        "rewards.source=environment.",
    )
    module = LatentReward(
        hidden_sizes=tuple(hidden_sizes),
        decoder_sizes=tuple(decoder_sizes),
        latent_size=latent_size,
        tanh_output=tanh_output,
    )
    ranks = [len(x.shape) for x in jax.tree.leaves(spec.observation)]
    shape = jax.eval_shape(lambda: row_features(spec.actions, ranks, *_zeros(spec)))

    def init(key: jax.Array) -> PyTree:
        return module.init(key, jnp.zeros((1, *shape.shape)), None)["params"]

    def evaluate(params: PyTree, features: jax.Array, noise: jax.Array | None) -> RewardOutput:
        return module.apply({"params": params}, features, noise)  # type: ignore[return-value]

    return RewardNetwork(
        init=init,
        evaluate=evaluate,
        num_features=shape.shape[-1],
        latent_size=latent_size,
        features=lambda observation, action: row_features(spec.actions, ranks, observation, action),
    )


def row_features(actions: ActionSpace, ranks: Sequence[int], observation: PyTree, action: jax.Array) -> jax.Array:
    """Joins observations and actions to vectors [..., F]; choices are one-hot, numbers clipped to [-1, 1].

    Args:
        actions: The actions of one environment.
        ranks: Axes of each array of one environment's observation.
        observation: Pytree of [..., *].
        action: [..., *].
    """
    flat = [
        x.reshape(*x.shape[: x.ndim - rank], -1).astype(jnp.float32)
        for x, rank in zip(jax.tree.leaves(observation), ranks, strict=True)
    ]
    return jnp.concatenate([*flat, jnp.clip(encode_action(actions, action), -1, 1)], axis=-1)


def _zeros(spec: EnvSpec) -> tuple[PyTree, jax.Array]:
    action = spec.actions.struct
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), spec.observation), jnp.zeros(action.shape, action.dtype)
