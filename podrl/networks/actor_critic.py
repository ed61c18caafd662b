"""From a config to an actor-critic `Network`: frame stack, encoder, core, a policy head and a value head.

A single step is an unroll of one row, so that acting and learning see the same network.
"""

import dataclasses

from flax import struct
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from podrl.config import ConfigError, NetworkConfig
from podrl.networks import frame_stack
from podrl.networks.core import LSTM, encode_action, encode_reward
from podrl.networks.encoders import MLP, NATURE_MIN_SIZE, ImpalaResNet, NatureCNN
from podrl.ops.distributions import make_distribution
from podrl.ops.lstm import initial_state
from podrl.types import Distribution, EnvSpec, Network, NetworkOutput, PyTree, Timestep, Trajectory

_MIN_IMAGE_SIZE = {"resnet": 1, "nature": NATURE_MIN_SIZE}


@struct.dataclass(kw_only=True)
class Carry:
    """What the network knows of the rows before; what it does without is `()`.

    Attributes:
        frames: [B, ...], see `podrl.networks.frame_stack`.
        action: [B, ...]; the last one.
        core: the core's state.
    """

    frames: PyTree = ()
    action: PyTree = ()
    core: PyTree = ()


@struct.dataclass(kw_only=True)
class _Rows:
    """Rows of several environments as the network reads them: batch first.

    B is sharded: merged with T as the major axis XLA gathers the whole batch on every chip.

    Attributes:
        observation: [B, T, ...].
        first: [B, T] bool.
        last_action: [B, T, ...]; the action of the row before; anything where `first`.
        last_reward: [B, T]; what it earned.
    """

    observation: jax.Array
    first: jax.Array
    last_action: PyTree
    last_reward: jax.Array


class ActorCritic(nn.Module):
    """An encoder, maybe a core, and two linear heads in float32; rows [B, T] -> NetworkOutput of [B, T, ...]."""

    encoder: nn.Module
    core: LSTM | None
    policy: Distribution

    @nn.compact
    def __call__(
        self, stacked: jax.Array, last: jax.Array | None, first: jax.Array, state: PyTree
    ) -> tuple[NetworkOutput, PyTree]:
        """Evaluates policy and value of frame stacks [B, T, ...], with `last` [B, T, F] beside them for the core."""
        features = self.encoder(stacked.reshape(-1, *stacked.shape[2:])).astype(jnp.float32)
        features = features.reshape(*first.shape, -1)
        if last is not None:
            features = jnp.concatenate([features, last], axis=-1)
        if self.core is not None:
            features, state = self.core(features, first, state)
        # Parameters near zero, such as nearly equal logits: a new policy acts at random, whatever the encoder's scale.
        init = nn.initializers.orthogonal(0.01)
        policy = nn.Dense(self.policy.num_params, kernel_init=init, name="policy")(features)
        value = nn.Dense(1, kernel_init=nn.initializers.orthogonal(1.0), name="value")(features)
        return NetworkOutput(policy=policy, value=value[..., 0]), state


def make_network(config: NetworkConfig, spec: EnvSpec) -> Network:
    """Builds the network that `config` describes for the observations and actions of `spec`.

    Args:
        config: the `network` section.
        spec: the environment; its observation is a single array, a frame [H, W, C] or a vector [D].

    Raises:
        ConfigError: if the encoder cannot take the environment's observations.
    """
    _check_observation(config, spec)
    frame, num_frames, action = spec.observation, config.frame_stack, spec.actions.struct
    policy = make_distribution(spec)
    core = LSTM(config.core_size, jnp.dtype(config.compute_dtype)) if config.core == "lstm" else None
    module = ActorCritic(encoder=_make_encoder(config), core=core, policy=policy)

    def init(key: jax.Array) -> PyTree:
        zeros = lambda x: jnp.zeros((1, 1, *x.shape), x.dtype)  # noqa: E731
        rows = _Rows(
            observation=zeros(frame),
            first=jnp.ones((1, 1), bool),
            last_action=zeros(action),
            last_reward=jnp.zeros((1, 1)),
        )
        carry = initial_carry(1)
        stacked, _ = frame_stack.unroll(rows.observation, rows.first, carry.frames, time_axis=1)
        return module.init(key, stacked, last_inputs(rows), rows.first, carry.core)["params"]

    def initial_carry(batch_size: int) -> Carry:
        return Carry(
            frames=frame_stack.initial_carry(batch_size, frame, num_frames),
            action=jnp.zeros((batch_size, *action.shape), action.dtype) if config.last_action else (),
            core=initial_state(batch_size, config.core_size) if config.core == "lstm" else (),
        )

    def last_inputs(rows: _Rows) -> jax.Array | None:
        """What the core sees of the row before, [B, T, F], zero where an episode opens."""
        inputs = [encode_action(spec.actions, rows.last_action)] if config.last_action else []
        inputs += [encode_reward(rows.last_reward)] if config.last_reward else []
        return jnp.where(rows.first[..., None], 0.0, jnp.concatenate(inputs, axis=-1)) if inputs else None

    def evaluate(params: PyTree, rows: _Rows, carry: Carry) -> tuple[NetworkOutput, Carry]:
        # Frames change their order before they are stacked, while they have a fraction of the stacks' bytes.
        stacked, frames = frame_stack.unroll(rows.observation, rows.first, carry.frames, time_axis=1)
        output, state = module.apply({"params": params}, stacked, last_inputs(rows), rows.first, carry.core)
        return output, dataclasses.replace(carry, frames=frames, core=state)

    def step(params: PyTree, timestep: Timestep, carry: Carry) -> tuple[NetworkOutput, Carry]:
        rows = _Rows(
            observation=timestep.observation,
            first=timestep.first,
            last_action=carry.action,
            last_reward=timestep.reward,
        )
        output, carry = evaluate(params, jax.tree.map(lambda x: x[:, None], rows), carry)
        return jax.tree.map(lambda x: x[:, 0], output), carry

    def remember(carry: Carry, action: jax.Array) -> Carry:
        return dataclasses.replace(carry, action=action) if config.last_action else carry

    def unroll(params: PyTree, trajectory: Trajectory) -> tuple[NetworkOutput, Carry]:
        carry = trajectory.carry
        rows = _Rows(
            observation=trajectory.observation,
            first=trajectory.first,
            last_action=_prepend(carry.action, trajectory.action) if config.last_action else (),
            last_reward=_prepend(trajectory.opening_reward, trajectory.reward),
        )
        output, carry = evaluate(params, _swap(rows), carry)
        return _swap(output), remember(carry, trajectory.action[-1])

    return Network(policy=policy, init=init, initial_carry=initial_carry, step=step, remember=remember, unroll=unroll)


def _make_encoder(config: NetworkConfig) -> nn.Module:
    dtype: DTypeLike = jnp.dtype(config.compute_dtype)
    if config.encoder == "resnet":
        return ImpalaResNet(config.width, dtype)
    if config.encoder == "nature":
        return NatureCNN(config.width, dtype)
    return MLP(config.hidden_sizes, dtype)


def _prepend(row: jax.Array, rows: jax.Array) -> jax.Array:
    """[T+1, B, ...] of a row [B, ...] and rows [T, B, ...]."""
    return jnp.concatenate([row[None], rows])


def _swap(tree: PyTree) -> PyTree:
    """[T, B, ...] to [B, T, ...], or back."""
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), tree)


def _check_observation(config: NetworkConfig, spec: EnvSpec) -> None:
    """Raises ConfigError if the encoder cannot take the environment's observations."""
    frame = spec.observation
    if not isinstance(frame, jax.ShapeDtypeStruct):
        raise ConfigError(
            f"network.encoder={config.encoder!r} needs one array per observation; env.id={spec.id!r} gives "
            f"{type(frame).__name__}. Choose entries of it with env.observation_keys."
        )
    if config.frame_stack > 1 and not frame.shape:
        raise ConfigError(
            f"network.frame_stack={config.frame_stack} needs observations with at least one axis; env.id={spec.id!r} "
            "gives a scalar. Use network.frame_stack=1."
        )
    size = _MIN_IMAGE_SIZE.get(config.encoder)
    if size and (len(frame.shape) != 3 or min(frame.shape[:2]) < size):
        least = f" of at least {size}x{size}" if size > 1 else ""
        raise ConfigError(
            f"network.encoder={config.encoder!r} needs images [H, W, C]{least}; env.id={spec.id!r} gives "
            f"{frame.shape}. Use network.encoder='mlp'."
        )
