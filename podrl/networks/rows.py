"""Rows: what a network sees of its environments at each step, of one timestep or of a trajectory."""

from flax import struct
import jax
import jax.numpy as jnp

from podrl.types import PyTree, Timestep, Trajectory


@struct.dataclass(kw_only=True)
class NetworkRows:
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


def row_of(timestep: Timestep, last_action: PyTree) -> NetworkRows:
    """Returns a timestep of [B] environments as rows [B, 1]."""
    rows = NetworkRows(
        observation=timestep.observation,
        first=timestep.first,
        last_action=last_action,
        last_reward=timestep.reward,
    )
    return jax.tree.map(lambda x: x[:, None], rows)


def rows_of(trajectory: Trajectory) -> NetworkRows:
    """Returns the rows of a trajectory, in the order [T+1, B]; `swap` puts them in the order of `NetworkRows`."""
    last_action = trajectory.carry.action
    return NetworkRows(
        observation=trajectory.observation,
        first=trajectory.first,
        last_action=() if isinstance(last_action, tuple) else _prepend(last_action, trajectory.action),
        last_reward=_prepend(trajectory.opening_reward, trajectory.reward),
    )


def swap(tree: PyTree) -> PyTree:
    """Transposes [T, B, ...] to [B, T, ...], or back."""
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), tree)


def _prepend(row: jax.Array, rows: jax.Array) -> jax.Array:
    """Prepends a row [B, ...] to rows [T, B, ...]; returns [T+1, B, ...]."""
    return jnp.concatenate([row[None], rows])
