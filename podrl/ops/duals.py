"""Dual variables: multipliers of constraints that are learned beside the parameters, by projected gradient descent.

To minimise a loss L subject to value <= limit, one descends the Lagrangian L + multiplier * (value - limit) in the
parameters and ascends it in the multiplier, which must not be negative:

    parameters descend  L + sg(multiplier) * value                 (`dual_penalty`)
    the multiplier descends  multiplier * (limit - sg(value))      (`dual_loss`), and is projected (`project_duals`)

sg stops the gradient, so neither is moved by the other's term. A value above its limit raises the multiplier until the
penalty holds the value there; one below it lowers the multiplier.
"""

import jax
from jax import numpy as jnp

from podrl.ops.distributions import Distribution
from podrl.types import PyTree

LEAST_DUAL = 1e-8  # Positive, as a temperature divides.


def initial_multipliers(policy: Distribution, value: float) -> dict[str, jax.Array]:
    """Returns a multiplier [] of this value for each divergence in `Distribution.kl_parts`, by its name."""
    row = jax.ShapeDtypeStruct((policy.num_params,), jnp.float32)
    return {name: jnp.float32(value) for name in jax.eval_shape(policy.kl_parts, row, row)}


def dual_loss(multiplier: jax.Array, value: jax.Array, limit: float) -> jax.Array:
    """The multiplier's loss, multiplier * (limit - value); [] each. No gradient flows through the value.

    Source: Song et al. 2019, arXiv:1909.12238, equation 5, first term.
    """
    return multiplier * (limit - jax.lax.stop_gradient(value))


def dual_penalty(multiplier: jax.Array, value: jax.Array) -> jax.Array:
    """The parameters' penalty, multiplier * value; [] each. No gradient flows through the multiplier.

    Source: Song et al. 2019, arXiv:1909.12238, equation 5, second term.
    """
    return jax.lax.stop_gradient(multiplier) * value


def project_duals(duals: PyTree) -> PyTree:
    """Returns dual variables that are at least `LEAST_DUAL`: the projection after each of their optimizer's steps.

    Source: Song et al. 2019, arXiv:1909.12238, section 4.
    """
    return jax.tree.map(lambda dual: jnp.maximum(dual, LEAST_DUAL), duals)
