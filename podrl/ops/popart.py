"""PopArt: values in units of their targets' running mean and scale, with outputs that survive when these move.

A network puts out normalised values n, and the values are scale * n + mean. When the statistics follow the targets, the
value head is rescaled by `preserving_change`, so that no value changes.

The variance is that of exponentially weighted targets. It is updated as a variance, not as a second moment minus a
squared mean, which in float32 would cancel where the mean is large.

Source: van Hasselt et al. 2016, arXiv:1602.07714, algorithm 1; for actor-critics Hessel et al. 2019, arXiv:1809.04474,
section 4. Algorithm 1 moves the statistics before the optimizer step that learns from the same targets; agents here
move them after it.
"""

from flax import struct
import jax
from jax import numpy as jnp


@struct.dataclass(kw_only=True)
class PopArt:
    """Running statistics of value targets, in the units of the return.

    Attributes:
        mean: [] float32.
        variance: [] float32.
        scale: [] float32; the root of the variance, within the bounds of the scale.
    """

    mean: jax.Array
    variance: jax.Array
    scale: jax.Array

    def normalize(self, values: jax.Array) -> jax.Array:
        """Returns values or targets [...] in normalised units."""
        return (values - self.mean) / self.scale

    def unnormalize(self, values: jax.Array) -> jax.Array:
        """Returns normalised values [...] in the units of the return."""
        return self.scale * values + self.mean


def initial_popart() -> PopArt:
    """Returns statistics with which normalisation is the identity; each leaf is an array of its own."""
    return PopArt(mean=jnp.zeros(()), variance=jnp.ones(()), scale=jnp.ones(()))


def move_popart(
    popart: PopArt,
    mean: jax.Array,
    square: jax.Array,
    has_targets: jax.Array,
    *,
    rate: float,
    min_scale: float,
    max_scale: float,
) -> PopArt:
    """Moves the statistics towards an update's targets.

    With m and s the mean and the mean square of the normalised targets, mean <- mean + rate * scale * m and
    variance <- (1 - rate) variance + rate * scale^2 * (s - rate * m^2): the same as the moving second moment of the
    targets minus the square of their moving mean.

    Args:
        popart: The statistics by which the targets were normalised.
        mean: [] mean of the normalised targets.
        square: [] mean of their squares.
        has_targets: [] bool; without targets the statistics stay as they are, bit for bit.
        rate: Weight of these targets, in [0, 1].
        min_scale: The smallest scale.
        max_scale: The largest scale.

    Source: van Hasselt et al. 2016, arXiv:1602.07714, section 2.1.
    """
    weight = jnp.where(has_targets, rate, 0.0)
    variance = (1 - weight) * popart.variance + weight * jnp.square(popart.scale) * (square - weight * jnp.square(mean))
    variance = jnp.maximum(variance, 0)  # Of equal targets it may round to below.
    return PopArt(
        mean=popart.mean + weight * popart.scale * mean,
        variance=variance,
        scale=jnp.clip(jnp.sqrt(variance), min_scale, max_scale),
    )


def preserving_change(before: PopArt, after: PopArt) -> tuple[jax.Array, jax.Array]:
    """Returns (factor [], shift []): the normalised values factor * n + shift mean after what n meant before.

    Where the statistics have not moved these are exactly 1 and 0.

    Source: van Hasselt et al. 2016, arXiv:1602.07714, section 2.2.
    """
    return before.scale / after.scale, (before.mean - after.mean) / after.scale
