"""Sequences that reach behind an episode's end, for models that are unrolled past it.

A terminal state absorbs: whatever is done there leads back to it and earns nothing, so its value is zero. A model that
is taught so needs no prediction of terminations. Behind a truncation an episode's states are not known, and nothing is
taught of them.
"""

from flax import struct
import jax
from jax import numpy as jnp

from podrl.ops.returns import n_step_returns


@struct.dataclass(kw_only=True)
class EpisodeRows:
    """What the rows of sequences [T, B] are to the episodes that their first rows belong to.

    Attributes:
        is_real: [T+1, B] bool; the row is a state of the episode that is not terminal.
        is_absorbed: [T+1, B] bool; the episode has terminated: the terminal state, and all rows behind it.
        is_step: [T, B] bool; the row's action is a step of the episode.
    """

    is_real: jax.Array
    is_absorbed: jax.Array
    is_step: jax.Array

    @property
    def is_known(self) -> jax.Array:
        """[T+1, B] bool: the row is a state of the episode, or absorbed."""
        return self.is_real | self.is_absorbed

    @property
    def is_known_step(self) -> jax.Array:
        """[T, B] bool: what the row's action earns is known."""
        return self.is_step | self.is_absorbed[:-1]


def follow_episodes(discounts: jax.Array, is_transition: jax.Array) -> EpisodeRows:
    """Returns which rows belong to the episode of row 0, and which to its absorbing end.

    A sequence that begins with a reset row has neither.

    Args:
        discounts: [T, B]; zero where the episode terminated.
        is_transition: [T, B] bool; false on reset rows.
    """
    goes_on = jnp.cumprod(is_transition, axis=0, dtype=jnp.int32) > 0
    has_ended = jnp.cumsum(goes_on & (discounts == 0), axis=0, dtype=jnp.int32) > 0
    is_absorbed = jnp.concatenate([jnp.zeros_like(has_ended[:1]), has_ended])
    is_step = goes_on & ~is_absorbed[:-1]
    is_real = jnp.concatenate([is_transition[:1], is_step]) & ~is_absorbed
    return EpisodeRows(is_real=is_real, is_absorbed=is_absorbed, is_step=is_step)


def absorbing_returns(
    values: jax.Array, rewards: jax.Array, discounts: jax.Array, is_transition: jax.Array, *, num_steps: int
) -> jax.Array:
    """Returns over `num_steps` steps from every row, zero where the episode has terminated.

    See `podrl.ops.returns.n_step_returns` for the arguments. The last row's return is its value.

    Returns:
        [T+1, B]; no gradient flows through them.

    Source: Schrittwieser et al. 2020, arXiv:1911.08265, section 3 and appendix G.
    """
    returns = n_step_returns(values, rewards, discounts, is_transition, num_steps=num_steps)
    every = jnp.concatenate([returns, jax.lax.stop_gradient(values[-1:])])
    return jnp.where(follow_episodes(discounts, is_transition).is_absorbed, 0.0, every)
