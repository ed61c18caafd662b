"""Per-row losses of actor-critic agents, and the masked mean that reduces them.

Rows are [T, B]. Losses stay per row so that an agent decides which rows count: a reset row is not a transition.
"""

import jax
import jax.numpy as jnp


def masked_mean(x: jax.Array, mask: jax.Array, *, count: jax.Array | float | None = None) -> jax.Array:
    """Mean of `x` over the rows where `mask` is true; zero if there are none.

    Masked rows may hold NaN: it does not reach the mean, and the gradient with respect to them is zero.

    Args:
        x: [T, B] values.
        mask: [T, B] bool; the rows that count.
        count: [] divisor in place of the number of true rows. With the count of a whole batch, the results of its parts
            add up to the mean of the whole.

    Returns:
        [] float.
    """
    total = jnp.sum(jnp.where(mask, x, 0.0))
    return total / jnp.maximum(jnp.sum(mask) if count is None else count, 1)


def policy_gradient_loss(log_probs: jax.Array, advantages: jax.Array) -> jax.Array:
    """Per-row loss -advantage * log pi(a|s), whose gradient is REINFORCE with a baseline.

    Args:
        log_probs: [T, B] log-probabilities of the actions taken, under the policy being trained, in nats.
        advantages: [T, B]; no gradient flows through them.

    Returns:
        [T, B].

    Source: Espeholt et al. 2018, arXiv:1802.01561, section 4.2.
    """
    return -jax.lax.stop_gradient(advantages) * log_probs


def value_loss(values: jax.Array, targets: jax.Array) -> jax.Array:
    """Per-row loss 0.5 (target - value)^2; [T, B] each. No gradient flows through the targets."""
    return 0.5 * jnp.square(jax.lax.stop_gradient(targets) - values)


def cross_entropy_loss(weights: jax.Array, logits: jax.Array) -> jax.Array:
    """Per-row loss -sum_i w_i log p_i of logits [..., N] with weights [..., N]; [...] in nats.

    What has no weight may be impossible, with a logit of -inf. Weights need not sum to one; no gradient flows through
    them.
    """
    weights, log_probs = jax.lax.stop_gradient(weights), jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return -jnp.sum(weights * jnp.where(weights > 0, log_probs, 0.0), axis=-1)


def expectile_loss(values: jax.Array, targets: jax.Array, expectile: float) -> jax.Array:
    """Per-row loss |expectile - 1[target < value]| (target - value)^2, whose minimum is an expectile of the targets.

    With 0.5 that is their mean; towards 1 it nears the largest target.

    Args:
        values: [T, B].
        targets: [T, B]; no gradient flows through them.
        expectile: In (0, 1).

    Returns:
        [T, B].

    Source: Kostrikov et al. 2021, arXiv:2110.06169, equations 3 and 5.
    """
    difference = jax.lax.stop_gradient(targets) - values
    return jnp.where(difference < 0, 1 - expectile, expectile) * jnp.square(difference)


def clipped_surrogate_loss(rhos: jax.Array, advantages: jax.Array, clip: jax.Array | float) -> jax.Array:
    """Per-row loss max(-rho A, -clip(rho, 1 - clip, 1 + clip) A): moving beyond `clip` gains nothing.

    Args:
        rhos: [T, B] target over behaviour probability of the action taken.
        advantages: [T, B]; no gradient flows through them.
        clip: The largest change of the ratio that still reduces the loss.

    Returns:
        [T, B].

    Source: Schulman et al. 2017, arXiv:1707.06347, equation 7.
    """
    advantages = jax.lax.stop_gradient(advantages)
    return jnp.maximum(-rhos * advantages, -jnp.clip(rhos, 1 - clip, 1 + clip) * advantages)


def clipped_value_loss(values: jax.Array, values_before: jax.Array, targets: jax.Array, clip: float) -> jax.Array:
    """Per-row value loss in which moving a value further than `clip` from `values_before` gains nothing.

    It is the larger of the losses (see `value_loss`) of the value and of the value clipped around `values_before`; all
    [T, B]. No gradient flows through the targets and the values before.

    Source: The code of Schulman et al. 2017 (OpenAI baselines, ppo2); not in the paper.
    """
    before = jax.lax.stop_gradient(values_before)
    clipped = before + jnp.clip(values - before, -clip, clip)
    return jnp.maximum(value_loss(values, targets), value_loss(clipped, targets))


def mean_and_deviation(x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation, each [], of `x` [T, B] over the rows where `mask` is true; zeros if none is."""
    mean = masked_mean(x, mask)
    return mean, jnp.sqrt(masked_mean(jnp.square(x - mean), mask))
