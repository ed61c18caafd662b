"""Action values Q(s, a): what they say to do, and what they say that it is worth.

Values are [..., A] float32 and may hold -inf for actions that cannot be taken (never for all of a row): they are then
neither chosen nor a maximum. A value is selected by a one-hot sum and not by a gather, for which XLA's partitioner may
insert collectives when the batch is sharded.
"""

import jax
import jax.numpy as jnp

_RESCALED_LINEARLY = 1e-3  # Keeps the inverse of `rescale_value` from growing too fast.


def greedy_action(q_values: jax.Array) -> jax.Array:
    """Returns the action of the largest value, the first of equal ones; [..., A] -> [...] int32."""
    return jnp.argmax(q_values, axis=-1).astype(jnp.int32)


def epsilon_greedy(keys: jax.Array, q_values: jax.Array, epsilon: jax.Array | float) -> jax.Array:
    """Chooses the greedy action, or with probability `epsilon` any action at random, each with a key of its own.

    Args:
        keys: [B] typed PRNG keys, consumed. A row's action does not depend on which rows share the batch.
        q_values: [B, A].
        epsilon: [] or [B]; the probability of an action at random, which may be the greedy one.

    Returns:
        [B] int32.
    """

    def choose(key: jax.Array, values: jax.Array, epsilon: jax.Array) -> jax.Array:
        explore_key, action_key = jax.random.split(key)
        allowed = jnp.where(jnp.isneginf(values), -jnp.inf, 0.0)
        explores = jax.random.uniform(explore_key) < epsilon
        return jnp.where(explores, jax.random.categorical(action_key, allowed), greedy_action(values))

    return jax.vmap(choose)(keys, q_values, jnp.broadcast_to(epsilon, keys.shape)).astype(jnp.int32)


def value_of_action(q_values: jax.Array, action: jax.Array) -> jax.Array:
    """Returns the value of one action of each row.

    Args:
        q_values: [..., A].
        action: [...] integers in [0, A).

    Returns:
        [...] float32.
    """
    is_taken = jnp.arange(q_values.shape[-1], dtype=action.dtype) == action[..., None]
    return jnp.sum(jnp.where(is_taken, q_values, 0.0), axis=-1)


def double_q_value(q_values: jax.Array, selector: jax.Array) -> jax.Array:
    """Returns the value of the action that another network thinks best.

    The maximum of noisy values is too large on average; the value of another network's choice is not.

    Args:
        q_values: [..., A] by which the action is valued, those of the target network.
        selector: [..., A] by which it is chosen, those of the network that learns.

    Returns:
        [...] float32.

    Source: van Hasselt et al. 2016, arXiv:1509.06461, equation 4.
    """
    return value_of_action(q_values, greedy_action(selector))


def conservative_loss(q_values: jax.Array, action: jax.Array) -> jax.Array:
    """Computes log sum exp Q(s, .) - Q(s, action) of each row: how far other actions are overrated, and at least zero.

    Args:
        q_values: [..., A].
        action: [...] integers in [0, A); the recorded action, which is allowed.

    Returns:
        [...] float32.

    Source: Kumar et al. 2020, arXiv:2006.04779, equation 4, the term beside the errors.
    """
    return jax.nn.logsumexp(q_values, axis=-1) - value_of_action(q_values, action)


def rescale_value(x: jax.Array) -> jax.Array:
    """Computes h(x) = sign(x) (sqrt(|x| + 1) - 1) + 0.001 x, by which values of any scale can be learned.

    Elementwise. In place of clipped rewards: the network's values are h of returns.

    Source: Pohlen et al. 2018, arXiv:1805.11593, proposition A.2.
    """
    return jnp.sign(x) * (jnp.sqrt(jnp.abs(x) + 1) - 1) + _RESCALED_LINEARLY * x


def unscale_value(x: jax.Array) -> jax.Array:
    """Computes the inverse of `rescale_value`, elementwise, without its loss of digits near zero."""
    size, linear = jnp.abs(x), _RESCALED_LINEARLY
    # With u = sqrt(1 + |h^-1|) the equation is linear u^2 + u - (1 + linear + |x|) = 0, and this is u - 1.
    left = 2 * size / (1 + 2 * linear + jnp.sqrt(1 + 4 * linear * (1 + linear + size)))
    return jnp.sign(x) * left * (left + 2)


def sequence_priority(errors: jax.Array, mask: jax.Array, *, share_of_max: float) -> jax.Array:
    """Computes sequences' priorities: a mixture of the largest and the mean absolute temporal difference.

    Args:
        errors: [T, B] temporal differences, as the loss takes them.
        mask: [T, B] bool; the rows that were learned from. A sequence without any has priority 0.
        share_of_max: Weight of the largest; the mean has the rest.

    Returns:
        [B].

    Source: Kapturowski et al. 2019, Recurrent experience replay in distributed reinforcement learning, ICLR, section
    2.3.
    """
    sizes = jnp.where(mask, jnp.abs(errors), 0.0)
    mean = jnp.sum(sizes, axis=0) / jnp.maximum(jnp.sum(mask, axis=0), 1)
    return share_of_max * jnp.max(sizes, axis=0) + (1 - share_of_max) * mean
