"""Running mean and variance of all rows that a run has seen, in float32.

A plain float32 mean stops moving once a batch's share of all rows times its distance from the mean is less than half
of the mean's last digit: a mean of 3000 after some 10,000 batches at the same distance as the deviation. So the count,
the mean and the variance each have a second float32, which holds what the first cannot: a pair of them is exact to
some 48 bits. Where only a batch's distance from the mean enters, its error is relative to the deviation and not to the
mean.

Source: Chan, Golub and LeVeque 1983, Algorithms for computing the sample variance, The American Statistician 37
(merging and shifting); Dekker 1971, A floating-point technique for extending the available precision, Numerische
Mathematik 18 (pairs).
"""

from flax import struct
import jax
import jax.numpy as jnp

from podrl.types import PyTree


@struct.dataclass(kw_only=True)
class Remainders:
    """What the float32 of the same name in `Statistics` cannot hold; the exact values are the sums of both."""

    count: jax.Array
    mean: PyTree
    variance: PyTree


@struct.dataclass(kw_only=True)
class Statistics:
    """The count, mean and variance of all rows seen, each correctly rounded.

    Attributes:
        count: [] float32; rows.
        mean: pytree of float32; zeros before the first row.
        variance: like `mean`; ones before the first row.
        remainders: of the three.
    """

    count: jax.Array
    mean: PyTree
    variance: PyTree
    remainders: Remainders


def initial_statistics(structs: PyTree) -> Statistics:
    """Returns the statistics of no rows, which change nothing that they normalise.

    Args:
        structs: pytree of `jax.ShapeDtypeStruct` of one row.
    """
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), structs)
    ones = jax.tree.map(jnp.ones_like, zeros)
    remainders = Remainders(count=jnp.zeros(()), mean=zeros, variance=zeros)
    return Statistics(count=jnp.zeros(()), mean=zeros, variance=ones, remainders=remainders)


def update_statistics(statistics: Statistics, rows: PyTree, mask: jax.Array) -> Statistics:
    """Returns the statistics of the rows seen before and of some more.

    Args:
        statistics: of the rows seen before.
        rows: pytree of [T, B, ...].
        mask: [T, B] bool; other rows do not count, and may be NaN.
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
        variance = jnp.where(fresh, 0.0, variance)  # The one before the first row is no row's.
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
    """Adds to a pair of float32 whose exact value is their sum; returns such a pair.

    Whichever of the terms is larger, `error` is exactly what rounding took from `total`. The barrier keeps a compiler
    that reorders sums from finding it to be zero.
    """
    increment = increment + low
    total = jax.lax.optimization_barrier(high + increment)
    other = jax.lax.optimization_barrier(total - high)
    error = (high - (total - other)) + (increment - other)
    return total, error
