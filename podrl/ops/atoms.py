"""Action values as distributions over atoms: returns at equal distances, each with a probability.

A network puts out logits for each action and atom. The mean over the atoms is the action's value. A target is a
distribution over shifted and shrunk atoms, which is projected back onto the atoms.

Source: Bellemare et al. 2017, A distributional perspective on reinforcement learning, arXiv:1707.06887, section 4.
"""

import dataclasses

import jax
from jax import numpy as jnp

from podrl.ops.losses import cross_entropy_loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class Support:
    """The atoms of a distribution.

    Attributes:
        low: The smallest atom.
        high: The largest atom.
        num: N, the number of atoms, at least 2.
    """

    low: float
    high: float
    num: int

    @property
    def atoms(self) -> jax.Array:
        """[N] float32; the atoms, equally far apart."""
        return jnp.linspace(self.low, self.high, self.num, dtype=jnp.float32)


def mean_of_atoms(logits: jax.Array, support: Support) -> jax.Array:
    """Returns the mean [...] of distributions with logits [..., N]."""
    return jnp.sum(jax.nn.softmax(logits, axis=-1) * support.atoms, axis=-1)


def project_on_atoms(probabilities: jax.Array, rewards: jax.Array, discounts: jax.Array, support: Support) -> jax.Array:
    """Projects the distribution of `reward + discount * Z` onto the atoms that Z has itself.

    Each shifted atom gives its probability to the two atoms next to it, the nearer one's share larger. Those beyond the
    outermost atoms count as these.

    Args:
        probabilities: [..., N] of Z.
        rewards: [...]; the discounted rewards of a target.
        discounts: [...]; the discount of what lies behind them, 0 where the episode terminated.
        support: The atoms.

    Returns:
        [..., N], which sum to one; no gradient flows through them.

    Source: Bellemare et al. 2017, arXiv:1707.06887, equation 7.
    """
    atoms, distance = support.atoms, (support.high - support.low) / (support.num - 1)
    moved = jnp.clip(rewards[..., None] + discounts[..., None] * atoms, support.low, support.high)
    shares = jnp.clip(1 - jnp.abs(moved[..., None, :] - atoms[:, None]) / distance, 0, 1)
    return jax.lax.stop_gradient(jnp.sum(shares * probabilities[..., None, :], axis=-1))


def divergence_of_atoms(targets: jax.Array, logits: jax.Array) -> jax.Array:
    """Computes KL(targets || softmax(logits)) in nats: the cross entropy without what the targets themselves have.

    Args:
        targets: [..., N] probabilities; no gradient flows through them.
        logits: [..., N].

    Returns:
        [...].
    """
    entropy = -jnp.sum(jax.scipy.special.xlogy(targets, targets), axis=-1)
    return cross_entropy_loss(targets, logits) - jax.lax.stop_gradient(entropy)
