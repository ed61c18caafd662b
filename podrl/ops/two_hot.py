"""Numbers as distributions over bins: what networks learn that predict values and rewards by classification.

Bins are one apart and lie around zero: bin i of n stands for i - (n - 1) / 2. A number between two bins has weight on
both, so that it is their mean. Returns and rewards are rescaled first (`podrl.ops.q_values.rescale_value`): 601 bins
then reach from -58,706 to 58,706.

Source: Schrittwieser et al. 2020, Mastering Atari, Go, chess and shogi by planning with a learned model, Nature 588,
methods (network architecture), arXiv:1911.08265, appendix F.
"""

import jax
from jax import numpy as jnp

from podrl.ops.q_values import rescale_value, unscale_value


def two_hot(x: jax.Array, num_bins: int) -> jax.Array:
    """Returns the weights of the two bins next to each number, the nearer one's larger.

    Args:
        x: [...]; numbers beyond the outermost bins count as these.
        num_bins: An odd number.

    Returns:
        [..., num_bins], which sum to one and whose mean is `x`.
    """
    bins = _bins(num_bins)
    inside = jnp.clip(x, bins[0], bins[-1])
    return jnp.maximum(1 - jnp.abs(inside[..., None] - bins), 0)


def encode_number(x: jax.Array, num_bins: int) -> jax.Array:
    """Returns the two-hot code [..., num_bins] of rescaled numbers [...]."""
    return two_hot(rescale_value(x), num_bins)


def decode_number(logits: jax.Array) -> jax.Array:
    """Returns the numbers [...] that logits [..., num_bins] stand for: their mean over bins, scaled back.

    Each bin is paired with its opposite, so that what is as likely above zero as below, such as a prediction before
    anything is learned, is exactly 0, and not what rounding makes of it.
    """
    probabilities, middle = jax.nn.softmax(logits.astype(jnp.float32), axis=-1), logits.shape[-1] // 2
    excess = probabilities[..., middle + 1 :] - jnp.flip(probabilities[..., :middle], axis=-1)
    return unscale_value(jnp.sum(excess * _bins(logits.shape[-1])[middle + 1 :], axis=-1))


def _bins(num_bins: int) -> jax.Array:
    if num_bins % 2 == 0:
        raise ValueError(f"Found {num_bins} bins; expected an odd number, so that one of them is zero.")
    return jnp.arange(num_bins, dtype=jnp.float32) - (num_bins - 1) // 2
