"""Rewards from preferences between segments: the loss, how members of an ensemble are weighed, simulated teachers.

A preference is a number in [0, 1]: 1 if the second of two segments is the better one, 0 if the first is, 0.5 if they
are equal.

Source: Christiano et al. 2017, arXiv:1706.03741, section 2.2 (learning from comparisons); Lee et al. 2021, B-Pref,
arXiv:2111.03026, section 4 (simulated teachers); Xue et al. 2023, Reinforcement learning from diverse human
preferences, arXiv:2301.11774 (the latent's prior, and weights by confidence).
"""

from flax import struct
import jax
from jax import numpy as jnp

from podrl.ops.gaussian import gaussian_kl


def bradley_terry_loss(returns: jax.Array, preference: jax.Array) -> jax.Array:
    """Computes the cross-entropy of preferences under P(second better) = sigmoid(return of second - of first).

    Args:
        returns: [..., 2] the sums of learned rewards of both segments.
        preference: [...] in [0, 1].

    Returns:
        [...] in nats.

    Source: Christiano et al. 2017, arXiv:1706.03741, equation 1.
    """
    logit = returns[..., 1] - returns[..., 0]
    return preference * jax.nn.softplus(-logit) + (1 - preference) * jax.nn.softplus(logit)


def prior_divergence(mean: jax.Array, log_deviation: jax.Array) -> jax.Array:
    """Computes KL(N(mean, deviation^2) || N(0, I)) of [..., D], [...] in nats; 0 for D = 0."""
    return gaussian_kl(mean, jnp.exp(log_deviation), jnp.zeros_like(mean), jnp.ones_like(mean))


def confidence_weights(divergence: jax.Array) -> jax.Array:
    """Computes the members' weights w_i = KL_i / sum_j KL_j; equal where all divergences are zero.

    A member whose latent departs further from the prior is taken for more confident.

    Args:
        divergence: [E, ...] of each member.

    Returns:
        [E, ...] that add up to 1 over the members.
    """
    total = jnp.sum(divergence, axis=0)
    return jnp.where(total > 0, divergence / jnp.where(total > 0, total, 1), 1 / len(divergence))


@struct.dataclass(kw_only=True)
class Teachers:
    """What simulated teachers are like, [K] each.

    Attributes:
        rationality: The inverse temperature of a preference.
        myopia: The discount of earlier steps: step t of H weighs myopia^(H - t).
        mistakes: The probability of saying the opposite.
        skip_below: No answer where both returns are below this.
        tie_within: Returns are equal that differ by this or less.
    """

    rationality: jax.Array
    myopia: jax.Array
    mistakes: jax.Array
    skip_below: jax.Array
    tie_within: jax.Array


def answer_queries(teachers: Teachers, rewards: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws a teacher for each query, and what this one says.

    A teacher prefers the second segment with probability sigmoid(rationality (G_1 - G_0)), G its own myopic returns,
    and then errs. Ties and skips go by the true returns, and no mistake changes them.

    Args:
        teachers: The teachers, K of them.
        rewards: [N, 2, H] true rewards of both segments of each query.
        key: A typed PRNG key; consumed.

    Returns:
        The teachers' numbers [N] int32, the preferences [N] float32, and whether there is an answer [N] bool.

    Source: Lee et al. 2021, arXiv:2111.03026, section 4.1.
    """
    who_key, prefer_key, err_key = jax.random.split(key, 3)
    num, length = rewards.shape[0], rewards.shape[-1]
    who = jax.random.randint(who_key, (num,), 0, len(teachers.rationality))
    teacher = jax.tree.map(lambda x: x[who], teachers)
    returns = jnp.sum(rewards, axis=-1)
    weights = teacher.myopia[:, None] ** jnp.arange(length - 1, -1, -1)
    seen = jnp.sum(weights[:, None] * rewards, axis=-1)
    likely = jax.nn.sigmoid(teacher.rationality * (seen[:, 1] - seen[:, 0]))
    prefers = jax.random.uniform(prefer_key, (num,)) < likely
    errs = jax.random.uniform(err_key, (num,)) < teacher.mistakes
    is_tie = jnp.abs(returns[:, 1] - returns[:, 0]) <= teacher.tie_within
    preference = jnp.where(is_tie, 0.5, (prefers ^ errs).astype(jnp.float32))
    return who.astype(jnp.int32), preference, jnp.max(returns, axis=-1) >= teacher.skip_below


def state_entropy_reward(rows: jax.Array, neighbours: int, offset: float) -> jax.Array:
    """Computes log(offset + distance to the k-th nearest other row), an estimate of how rare a row is.

    Args:
        rows: [N, F]; rows with NaN have none that is near.
        neighbours: k, at least 1; of fewer other rows the furthest counts.
        offset: Keeps the logarithm finite.

    Returns:
        [N] float32.

    Source: Lee et al. 2021, PEBBLE, arXiv:2106.05091, section 4.1; over the batch as in Liu and Abbeel 2021,
    arXiv:2103.04551, equation 4.
    """
    rank = min(neighbours, len(rows) - 1)
    squares = jnp.sum(jnp.square(rows), axis=-1)
    products = jnp.matmul(rows, rows.T, precision=jax.lax.Precision.HIGHEST)
    squared = jnp.maximum(squares[:, None] + squares[None] - 2 * products, 0)
    squared = jnp.where(jnp.eye(len(rows), dtype=bool), -1, squared)  # A row itself comes first.
    nearest = -jax.lax.top_k(-squared, rank + 1)[0][:, rank]
    return jnp.log(offset + jnp.sqrt(jnp.maximum(nearest, 0)))
