"""Running mean and variance of all rows that a run has seen, in float32.

A plain float32 mean stops moving once a batch's share of all rows times its distance from the mean is less than half
of the mean's last digit: a mean of 3000 stops after some 10,000 batches at a distance of one deviation. So the count,
the mean and the variance each have a second float32, which holds the remainder that the first cannot: the pair is exact
to some 48 bits. Only a batch's distance from the mean enters, so the error is relative to the deviation and not to the
mean.

Source: Chan, Golub and LeVeque 1983, Algorithms for computing the sample variance, The American Statistician 37
(merging and shifting); Dekker 1971, A floating-point technique for extending the available precision, Numerische
Mathematik 18 (pairs).
"""

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from podrl.types import PyTree


@struct.dataclass(kw_only=True)
class Remainders:
    """The remainders that the float32 values in `Statistics` cannot hold; the exact values are the sums of both."""

    count: jax.Array
    mean: PyTree
    variance: PyTree


@struct.dataclass(kw_only=True)
class Statistics:
    """The count, mean and variance of all rows seen, each correctly rounded.

    Attributes:
        count: [] float32; the number of rows.
        mean: A pytree of float32; zeros before the first row.
        variance: A pytree like `mean`; ones before the first row.
        remainders: The remainders of the three values.
    """

    count: jax.Array
    mean: PyTree
    variance: PyTree
    remainders: Remainders


def initial_statistics(structs: PyTree) -> Statistics:
    """Returns the statistics of no rows, with which normalisation is the identity.

    Args:
        structs: A pytree of `jax.ShapeDtypeStruct` of one row.
    """
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), structs)
    ones = jax.tree.map(jnp.ones_like, zeros)
    remainders = Remainders(count=jnp.zeros(()), mean=zeros, variance=zeros)
    return Statistics(count=jnp.zeros(()), mean=zeros, variance=ones, remainders=remainders)


def exact_statistics(count: int, mean: PyTree, variance: PyTree) -> Statistics:
    """Returns statistics that are known, as numpy arrays.

    Args:
        count: The number of rows.
        mean: A pytree of float64.
        variance: A pytree of float64 like `mean`.
    """
    exact = {"count": np.float64(count), "mean": mean, "variance": variance}
    rounded = jax.tree.map(lambda x: np.asarray(x, np.float32), exact)
    rest = jax.tree.map(lambda x, near: np.asarray(x - near.astype(np.float64), np.float32), exact, rounded)
    return Statistics(**rounded, remainders=Remainders(**rest))


def update_statistics(statistics: Statistics, rows: PyTree, mask: jax.Array) -> Statistics:
    """Adds rows to the statistics, and returns the new statistics.

    Args:
        statistics: The statistics of the rows seen before.
        rows: A pytree of [T, B, ...].
        mask: [T, B] bool; the rows that count. Others may be NaN.
    """
    added = jnp.sum(mask, dtype=jnp.float32)
    rest = statistics.remainders
    count, count_rest = _add(statistics.count, rest.count, added)
    share = added / jnp.maximum(count, 1)
    fresh = (statistics.count == 0) & (added > 0)

    def merge(x: jax.Array, *old: jax.Array) -> tuple[jax.Array, ...]:
        mean, mean_rest, variance, variance_rest = old
        chosen = jnp.expand_dims(mask, range(2, x.ndim))

        def average(of: jax.Array) -> jax.Array:
            return jnp.sum(jnp.where(chosen, of, 0.0), axis=(0, 1)) / jnp.maximum(added, 1)

        distances = (x - mean) - mean_rest
        variance = jnp.where(fresh, 0.0, variance)  # The initial variance comes from no row.
        shift = average(distances)
        spread = average(jnp.square(distances - shift))
        growth = (spread - variance) - variance_rest + (1 - share) * jnp.square(shift)
        return *_add(mean, mean_rest, share * shift), *_add(variance, variance_rest, share * growth)

    leaves, treedef = jax.tree.flatten(rows)
    old = (statistics.mean, rest.mean, statistics.variance, rest.variance)
    merged = map(merge, leaves, *map(jax.tree.leaves, old))
    mean, mean_rest, variance, variance_rest = (jax.tree.unflatten(treedef, part) for part in zip(*merged, strict=True))
    remainders = Remainders(count=count_rest, mean=mean_rest, variance=variance_rest)
    return Statistics(count=count, mean=mean, variance=variance, remainders=remainders)


def _add(high: jax.Array, low: jax.Array, increment: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Adds to a pair of float32 whose exact value is their sum, and returns such a pair.

    Whichever of the terms is larger, `error` is exactly the rounding error of `total`. The barriers keep a compiler
    that reorders sums from simplifying it to zero.
    """
    increment = increment + low
    total = jax.lax.optimization_barrier(high + increment)
    other = jax.lax.optimization_barrier(total - high)
    error = (high - (total - other)) + (increment - other)
    return total, error
