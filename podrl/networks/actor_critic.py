"""From a config to an actor-critic `Network`: frame stack, encoder, a policy head and a value head."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from podrl.config import ConfigError, NetworkConfig
from podrl.networks import frame_stack
from podrl.networks.encoders import MINATAR_MIN_SIZE, MLP, NATURE_MIN_SIZE, ImpalaResNet, MinAtarCNN, NatureCNN
from podrl.ops.distributions import make_distribution
from podrl.types import (
    ActionSpace,
    ContinuousActions,
    Distribution,
    EnvSpec,
    Network,
    NetworkOutput,
    PyTree,
    Timestep,
    Trajectory,
)

_MIN_IMAGE_SIZE = {"resnet": 1, "nature": NATURE_MIN_SIZE, "minatar": MINATAR_MIN_SIZE}


class ActorCritic(nn.Module):
    """An encoder with two linear heads in float32; observations [N, ...] -> NetworkOutput of [N, ...].

    Attributes:
        encoder: of the policy, and of the value.
        policy: the distribution over actions.
        num_free: of the policy's parameters, the last so many are the same whatever is observed.
        value_encoder: of the value, if it has one of its own.
    """

    encoder: nn.Module
    policy: Distribution
    num_free: int = 0
    value_encoder: nn.Module | None = None

    @nn.compact
    def __call__(self, observation: jax.Array) -> NetworkOutput:
        """Evaluates policy and value."""
        features = value_features = self.encoder(observation).astype(jnp.float32)
        if self.value_encoder is not None:
            value_features = self.value_encoder(observation).astype(jnp.float32)
        # Parameters near zero, such as nearly equal logits: a new policy acts at random, whatever the encoder's scale.
        init = nn.initializers.orthogonal(0.01)
        policy = nn.Dense(self.policy.num_params - self.num_free, kernel_init=init, name="policy")(features)
        if self.num_free:
            free = self.param("policy_free", nn.initializers.zeros, (self.num_free,))
            policy = jnp.concatenate([policy, jnp.broadcast_to(free, (*policy.shape[:-1], self.num_free))], axis=-1)
        value = nn.Dense(1, kernel_init=nn.initializers.orthogonal(1.0), name="value")(value_features)
        return NetworkOutput(policy=policy, value=value[..., 0])


def make_network(config: NetworkConfig, spec: EnvSpec) -> Network:
    """Builds the network that `config` describes for the observations and actions of `spec`.

    Args:
        config: the `network` section.
        spec: the environment; its observation is a single array, a frame [H, W, C] or a vector [D].

    Raises:
        ConfigError: if the encoder cannot take the environment's observations.
    """
    _check_observation(config, spec)
    frame, num_frames = spec.observation, config.frame_stack
    policy = make_distribution(config, spec.actions)
    module = ActorCritic(
        encoder=_make_encoder(config),
        policy=policy,
        num_free=_num_free(config, spec.actions),
        value_encoder=_make_encoder(config) if config.separate_value else None,
    )

    def init(key: jax.Array) -> PyTree:
        stacked = jnp.zeros((1, *frame_stack.stacked_shape(frame, num_frames)), frame.dtype)
        return module.init(key, stacked)["params"]

    def apply(params: PyTree, stacked: jax.Array) -> NetworkOutput:
        return module.apply({"params": params}, stacked)  # type: ignore[return-value]

    def initial_carry(batch_size: int) -> PyTree:
        return frame_stack.initial_carry(batch_size, frame, num_frames)

    def step(params: PyTree, timestep: Timestep, carry: PyTree) -> tuple[NetworkOutput, PyTree]:
        stacked, carry = frame_stack.step(timestep.observation, timestep.first, carry)
        return apply(params, stacked), carry

    def unroll(params: PyTree, trajectory: Trajectory) -> tuple[NetworkOutput, PyTree]:
        # [B, T] from here on. B is sharded: merged with T as the major axis XLA gathers the whole batch on every chip.
        # Frames change their order before they are stacked, while they have a fraction of the stacks' bytes.
        frames, opens = jnp.swapaxes(trajectory.observation, 0, 1), jnp.swapaxes(trajectory.first, 0, 1)
        stacked, carry = frame_stack.unroll(frames, opens, trajectory.carry, time_axis=1)
        output = apply(params, stacked.reshape(-1, *stacked.shape[2:]))
        return jax.tree.map(lambda x: _split_time_major(x, trajectory.first.shape), output), carry

    def rows(params: PyTree, trajectory: Trajectory, rows: jax.Array) -> NetworkOutput:
        frames, opens = jnp.swapaxes(trajectory.observation, 0, 1), jnp.swapaxes(trajectory.first, 0, 1)
        stacked = frame_stack.rows(frames, opens, trajectory.carry, jnp.swapaxes(rows, 0, 1))
        output = apply(params, stacked.reshape(-1, *stacked.shape[2:]))
        return jax.tree.map(lambda x: _split_time_major(x, rows.shape), output)

    return Network(policy=policy, init=init, initial_carry=initial_carry, step=step, unroll=unroll, rows=rows)


def _num_free(config: NetworkConfig, actions: ActionSpace) -> int:
    """How many of the policy's last parameters do not depend on what is observed: the scales, if so configured."""
    return actions.size if isinstance(actions, ContinuousActions) and config.action_scale == "shared" else 0


def _make_encoder(config: NetworkConfig) -> nn.Module:
    dtype: DTypeLike = jnp.dtype(config.compute_dtype)
    if config.encoder == "resnet":
        return ImpalaResNet(config.width, dtype)
    if config.encoder == "nature":
        return NatureCNN(config.width, dtype)
    if config.encoder == "minatar":
        return MinAtarCNN(config.width, dtype)
    return MLP(config.hidden_sizes, dtype, config.activation)


def _split_time_major(x: jax.Array, leading: tuple[int, ...]) -> jax.Array:
    """[B * T, ...] back to [T, B, ...], with `leading` = (T, B)."""
    return jnp.swapaxes(x.reshape(leading[1], leading[0], *x.shape[1:]), 0, 1)


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
