"""What a network sees beside the observation: its last action and reward, if it is to."""

import jax
import jax.numpy as jnp

from podrl.config.config import NetworkConfig
from podrl.networks.rows import NetworkRows
from podrl.types import ActionSpace, ContinuousActions, DiscreteActions


def encode_last(config: NetworkConfig, actions: ActionSpace, rows: NetworkRows) -> jax.Array | None:
    """Encodes the last action and reward that the network sees, [B, T, F]; zeros where an episode opens."""
    inputs = [encode_action(actions, rows.last_action)] if config.last_action else []
    inputs += [encode_reward(rows.last_reward)] if config.last_reward else []
    return jnp.where(rows.first[..., None], 0.0, jnp.concatenate(inputs, axis=-1)) if inputs else None


def encode_action(actions: ActionSpace, action: jax.Array) -> jax.Array:
    """Encodes actions as vectors [..., F] float32: one-hot for each choice, unchanged if continuous."""
    if isinstance(actions, ContinuousActions):
        return action.astype(jnp.float32)
    if isinstance(actions, DiscreteActions):
        return jax.nn.one_hot(action, actions.num)
    choices = [jax.nn.one_hot(action[..., index], num) for index, num in enumerate(actions.nums)]
    return jnp.concatenate(choices, axis=-1)


def encode_reward(reward: jax.Array) -> jax.Array:
    """Encodes rewards [...] as vectors [..., 1], clipped to [-1, 1] as in IMPALA's code: their scale is the task's."""
    return jnp.clip(reward, -1.0, 1.0)[..., None]
