"""The actor-critic `Network` that a config describes: frame stack, encoder, core, policy head and value head.

A single step is an unroll of one row, so that acting and learning run the same network.
"""

import dataclasses

from flax import struct
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from podrl.config.config import ConfigError, NetworkConfig
from podrl.networks import frame_stack
from podrl.networks.core import LSTM, encode_action, encode_reward
from podrl.networks.encoders import MINATAR_MIN_SIZE, MLP, NATURE_MIN_SIZE, ImpalaResNet, MinAtarCNN, NatureCNN
from podrl.networks.interface import Network, NetworkOutput, Networks
from podrl.networks.lstm import initial_state
from podrl.networks.policies import make_distribution
from podrl.ops.distributions import Distribution
from podrl.types import ActionSpace, ContinuousActions, EnvSpec, PyTree, Timestep, Trajectory

_MIN_IMAGE_SIZE = {"resnet": 1, "nature": NATURE_MIN_SIZE, "minatar": MINATAR_MIN_SIZE}


@struct.dataclass(kw_only=True)
class Carry:
    """The network's state between rows. A part that the network does not have is `()`.

    Attributes:
        frames: [B, ...]; the frames before the current one, see `podrl.networks.frame_stack`.
        action: [B, ...]; the last action.
        core: The core's state.
    """

    frames: PyTree = ()
    action: PyTree = ()
    core: PyTree = ()


@struct.dataclass(kw_only=True)
class _Rows:
    """Rows of several environments, in the order [B, T].

    B is sharded, and the encoder merges it with T: with T as the major axis XLA would gather the whole batch on every
    device.

    Attributes:
        observation: [B, T, ...] observations.
        first: [B, T] bool; the row opens an episode.
        last_action: [B, T, ...]; the action of the row before, arbitrary where `first`; `()` if the network does not
            see it.
        last_reward: [B, T]; the reward of that action.
    """

    observation: jax.Array
    first: jax.Array
    last_action: PyTree
    last_reward: jax.Array


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
            stacked: [B, T, ...] observations.
            last: [B, T, F] inputs that are joined to the encoder's features, if there are any.
            first: [B, T] bool; the row opens an episode.
            state: The core's state before row 0.
        """
        features = value_features = _encode(self.encoder, stacked, last)
        if self.value_encoder is not None:
            value_features = _encode(self.value_encoder, stacked, last)
        if self.core is not None:
            features, state = self.core(features, first, state)
            value_features = features
        # Small weights give nearly equal logits: a new policy acts at random, whatever the encoder's scale.
        init = nn.initializers.orthogonal(0.01)
        policy = nn.Dense(self.policy.num_params - self.num_free, kernel_init=init, name="policy")(features)
        if self.num_free:
            free = self.param("policy_free", nn.initializers.zeros, (self.num_free,))
            policy = jnp.concatenate([policy, jnp.broadcast_to(free, (*policy.shape[:-1], self.num_free))], axis=-1)
        value = nn.Dense(1, kernel_init=nn.initializers.orthogonal(1.0), name="value")(value_features)
        return NetworkOutput(policy=policy, value=value[..., 0]), state


def make_networks(config: NetworkConfig, spec: EnvSpec, *, layers_are_split: bool = False) -> Networks:
    """Returns the networks that agents can ask for, as `config` describes them.

    Args:
        config: The `network` section.
        spec: The spec of the environment.
        layers_are_split: Whether layers are split over devices (`topology.model_devices`).
    """
    return Networks(actor_critic=lambda: make_network(config, spec, layers_are_split=layers_are_split))


def make_network(config: NetworkConfig, spec: EnvSpec, *, layers_are_split: bool = False) -> Network:
    """Builds the network that `config` describes for the observations and actions of `spec`.

    Args:
        config: The `network` section.
        spec: The spec of the environment. Its observation is a single array, a frame [H, W, C] or a vector [D].
        layers_are_split: Whether the channels of the layers are split over devices.

    Raises:
        ConfigError: If the encoder cannot take the environment's observations.
    """
    _check_observation(config, spec)
    frame, num_frames, action = spec.observation, config.frame_stack, spec.actions.struct
    policy = make_distribution(config, spec.actions)
    module = ActorCritic(
        encoder=_make_encoder(config, layers_are_split),
        policy=policy,
        num_free=_num_free(config, spec.actions),
        value_encoder=_make_encoder(config, layers_are_split) if config.separate_value else None,
        core=LSTM(config.core_size, jnp.dtype(config.compute_dtype)) if config.core == "lstm" else None,
    )

    def init(key: jax.Array) -> PyTree:
        observation, first = jnp.zeros((1, 1, *frame.shape), frame.dtype), jnp.ones((1, 1), bool)
        actions = jnp.zeros((1, 1, *action.shape), action.dtype)
        rows = _Rows(observation=observation, first=first, last_action=actions, last_reward=jnp.zeros((1, 1)))
        return module.init(key, *inputs_of(rows, initial_carry(1))[0])["params"]

    def initial_carry(batch_size: int) -> Carry:
        return Carry(
            frames=frame_stack.initial_carry(batch_size, frame, num_frames),
            action=jnp.zeros((batch_size, *action.shape), action.dtype) if config.last_action else (),
            core=initial_state(batch_size, config.core_size) if config.core == "lstm" else (),
        )

    def inputs_of(rows: _Rows, carry: Carry) -> tuple[tuple, PyTree]:
        """Returns the arguments of the module, and the frames of the next carry."""
        stacked, frames = frame_stack.unroll(rows.observation, rows.first, carry.frames, time_axis=1)
        return (stacked, _last_inputs(config, spec.actions, rows), rows.first, carry.core), frames

    def evaluate(params: PyTree, rows: _Rows, carry: Carry) -> tuple[NetworkOutput, Carry]:
        inputs, frames = inputs_of(rows, carry)
        output, state = module.apply({"params": params}, *inputs)
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
        # Frames are transposed before they are stacked, while they have a fraction of the stacks' bytes.
        output, carry = evaluate(params, _swap(_rows_of(trajectory)), trajectory.carry)
        return _swap(output), remember(carry, trajectory.action[-1])

    def rows(params: PyTree, trajectory: Trajectory, chosen: jax.Array) -> NetworkOutput:
        every, chosen, carry = _swap(_rows_of(trajectory)), jnp.swapaxes(chosen, 0, 1), trajectory.carry
        stacked = frame_stack.rows(every.observation, every.first, carry.frames, chosen)
        last, first = jax.tree.map(
            lambda x: frame_stack.take_stack_rows(x, chosen), (_last_inputs(config, spec.actions, every), every.first)
        )
        return _swap(module.apply({"params": params}, stacked, last, first, carry.core)[0])

    return Network(
        policy=policy,
        init=init,
        initial_carry=initial_carry,
        step=step,
        remember=remember,
        unroll=unroll,
        rows=rows if config.core == "none" else None,
    )


def _rows_of(trajectory: Trajectory) -> _Rows:
    """Returns the rows of a trajectory, in the order [T+1, B]."""
    last_action = trajectory.carry.action
    return _Rows(
        observation=trajectory.observation,
        first=trajectory.first,
        last_action=() if isinstance(last_action, tuple) else _prepend(last_action, trajectory.action),
        last_reward=_prepend(trajectory.opening_reward, trajectory.reward),
    )


def _last_inputs(config: NetworkConfig, actions: ActionSpace, rows: _Rows) -> jax.Array | None:
    """Encodes the last action and reward that the network sees, [B, T, F]; zeros where an episode opens."""
    inputs = [encode_action(actions, rows.last_action)] if config.last_action else []
    inputs += [encode_reward(rows.last_reward)] if config.last_reward else []
    return jnp.where(rows.first[..., None], 0.0, jnp.concatenate(inputs, axis=-1)) if inputs else None


def _encode(encoder: nn.Module, stacked: jax.Array, last: jax.Array | None) -> jax.Array:
    """Computes features [B, T, F] in float32, joined with `last`; the encoder sees a single axis of rows."""
    features = encoder(stacked.reshape(-1, *stacked.shape[2:])).astype(jnp.float32)
    features = features.reshape(*stacked.shape[:2], -1)
    return features if last is None else jnp.concatenate([features, last], axis=-1)


def _num_free(config: NetworkConfig, actions: ActionSpace) -> int:
    """Returns how many of the policy's parameters do not depend on the observation: the shared scales, if any."""
    return actions.size if isinstance(actions, ContinuousActions) and config.action_scale == "shared" else 0


def _make_encoder(config: NetworkConfig, layers_are_split: bool) -> nn.Module:
    dtype: DTypeLike = jnp.dtype(config.compute_dtype)
    if config.encoder == "resnet":
        return ImpalaResNet(config.width, dtype, layers_are_split)
    if config.encoder == "nature":
        return NatureCNN(config.width, dtype)
    if config.encoder == "minatar":
        return MinAtarCNN(config.width, dtype)
    return MLP(config.hidden_sizes, dtype, config.activation)


def _prepend(row: jax.Array, rows: jax.Array) -> jax.Array:
    """Prepends a row [B, ...] to rows [T, B, ...]; returns [T+1, B, ...]."""
    return jnp.concatenate([row[None], rows])


def _swap(tree: PyTree) -> PyTree:
    """Transposes [T, B, ...] to [B, T, ...], or back."""
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
            f"{spec.observed or frame.shape}. Use network.encoder='mlp'."
        )
