"""Per-row losses of actor-critic agents, and the masked mean that makes one number of them.

Rows are [T, B]. Losses stay per row so that an agent decides which rows count: a reset row is no transition.
"""

import jax
import jax.numpy as jnp


def masked_mean(x: jax.Array, mask: jax.Array, *, count: jax.Array | float | None = None) -> jax.Array:
    """Mean of `x` over the rows where `mask` is true; zero if there are none.

    Masked rows may hold NaN: it does not reach the mean, and the gradient with respect to them is zero.

    Args:
        x: [T, B].
        mask: [T, B] bool.
        count: [] what to divide by instead of the number of true rows. With the count of a whole batch, the results of
            its parts add up to the mean of the whole.

    Returns:
        [] float.
    """
    total = jnp.sum(jnp.where(mask, x, 0.0))
    return total / jnp.maximum(jnp.sum(mask) if count is None else count, 1)


def policy_gradient_loss(log_probs: jax.Array, advantages: jax.Array) -> jax.Array:
    """Per-row loss -advantage * log pi(a|s), whose gradient is REINFORCE with a baseline.

    Args:
        log_probs: [T, B] of the actions taken, under the policy being trained, in nats.
        advantages: [T, B]; no gradient flows through them.

    Returns:
        [T, B].

    Source: Espeholt et al. 2018, arXiv:1802.01561, section 4.2.
    """
    return -jax.lax.stop_gradient(advantages) * log_probs


def value_loss(values: jax.Array, targets: jax.Array) -> jax.Array:
    """Per-row loss 0.5 (target - value)^2; [T, B] each. No gradient flows through the targets."""
    return 0.5 * jnp.square(jax.lax.stop_gradient(targets) - values)
